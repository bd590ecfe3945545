"""The parameters of a CPU core that definitions and schedule rules depend on."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Machine:
    """One CPU as schedules see it.

    Attributes:
        lanes: float32 lanes of a vector register (4 NEON, 8 AVX2, 16 AVX-512).
        registers: vector registers (16 AVX2, 32 AVX-512 and NEON).
        cores: cores that kernels may spread over.
        l1_bytes: level-1 data cache in bytes.
        l2_bytes: level-2 cache in bytes.
        features: instruction-set features in LLVM's names, such as `avx512bf16`.
        l3_bytes: level-3 cache in bytes, shared by the cores; 0 where there is none.
    """

    lanes: int
    registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    features: frozenset[str] = frozenset()
    l3_bytes: int = 0

    @classmethod
    def of(cls, capabilities: Any) -> "Machine":
        """The machine that a backend's `Capabilities` describe."""
        return cls(**{one.name: getattr(capabilities, one.name) for one in fields(cls)})
