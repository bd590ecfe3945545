"""The parameters of a CPU core that definitions and schedule rules depend on."""

from dataclasses import dataclass, fields
from typing import Any

_OF_KERNELS = frozenset({"weight_registers", "other_registers", "adds_in_place"})


@dataclass(frozen=True)
class Machine:
    """One CPU as schedules see it; rates are those of one core.

    Attributes:
        lanes: float32 lanes of a vector register (4 NEON, 8 AVX2, 16 AVX-512).
        registers: vector registers (16 AVX2, 32 AVX-512 and NEON).
        cores: cores that kernels may spread over.
        l1_bytes: level-1 data cache in bytes.
        l2_bytes: level-2 cache in bytes.
        features: instruction-set features in LLVM's names, such as `avx512bf16`.
        l3_bytes: level-3 cache in bytes, shared by the cores; 0 where there is none.
        fmas_per_cycle: vector multiply-adds that begin in a cycle.
        fma_latency: cycles until the result of a multiply-add can be added to.
        loads_per_cycle: whole vectors read from the level-1 cache in a cycle.
        l2_bytes_per_cycle: bytes that a stream from the level-2 cache brings in a cycle.
        l3_bytes_per_cycle: the same of the level-3 cache.
        memory_bytes_per_cycle: the same of memory.
        weight_registers: registers for the weights of one vector of results; as a kernel's products
            have it, like what follows.
        other_registers: registers for scalars and for what is between products and sums.
        adds_in_place: whether a multiply-add overwrites its sum or one of its factors.
    """

    lanes: int
    registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    features: frozenset[str] = frozenset()
    l3_bytes: int = 0
    fmas_per_cycle: float = 2.0
    fma_latency: float = 4.0
    loads_per_cycle: float = 2.0
    l2_bytes_per_cycle: float = 32.0
    l3_bytes_per_cycle: float = 16.0
    memory_bytes_per_cycle: float = 5.0
    weight_registers: int = 1
    other_registers: int = 1
    adds_in_place: bool = True

    @property
    def broadcasts_from_memory(self) -> bool:
        """Whether a multiply-add takes a scalar from memory for all its lanes, as AVX-512's do."""
        return self.lanes >= 16

    @classmethod
    def of(cls, capabilities: Any) -> "Machine":
        """The machine that a backend's `Capabilities` describe."""
        names = {one.name for one in fields(cls)} - _OF_KERNELS
        return cls(**{name: getattr(capabilities, name) for name in names})
