"""The parameters of a CPU core that definitions and schedule rules depend on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One CPU as schedules see it.

    Attributes:
        lanes: float32 lanes of a vector register (4 NEON, 8 AVX2, 16 AVX-512).
        registers: vector registers (16 AVX2, 32 AVX-512 and NEON).
        cores: cores that kernels may spread over.
        l1_bytes: level-1 data cache in bytes.
        l2_bytes: level-2 cache in bytes.
    """

    lanes: int
    registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
