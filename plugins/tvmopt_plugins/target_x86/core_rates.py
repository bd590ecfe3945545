"""What one core of an x86 CPU does in a cycle, by the name that LLVM has for the CPU.

A table, not a measurement: the same compilation shall give the same package wherever it runs.
Sources: Agner Fog's instruction tables and microarchitecture manual (units, latencies), vendors'
optimization manuals (caches). Rates of the caches and of memory are what a stream gets, about two
thirds of the manuals' peaks; Zen 5's are measured.
"""

from typing import TypedDict

from tvmopt_plugins.target_x86 import cpu_info


class Rates(TypedDict):
    """Fields of `tvmopt.Capabilities`, see there."""

    fmas_per_cycle: float
    fma_latency: float
    loads_per_cycle: float
    l2_bytes_per_cycle: float
    l3_bytes_per_cycle: float
    memory_bytes_per_cycle: float


def _rates(
    fmas: float = 2, latency: float = 4, loads: float = 2, l2: float = 32, l3: float = 10
) -> Rates:
    return Rates(
        fmas_per_cycle=fmas,
        fma_latency=latency,
        loads_per_cycle=loads,
        l2_bytes_per_cycle=l2,
        l3_bytes_per_cycle=l3,
        memory_bytes_per_cycle=4,
    )


_HASWELL = _rates(latency=5, l2=25, l3=10)
_ZEN_2 = _rates(latency=5, l2=25, l3=16)
_ZEN_3 = _rates(l2=25, l3=20)
_ZEN_5 = Rates(**{**_rates(l2=50, l3=24), "memory_bytes_per_cycle": 10.0})

_NARROW = {  # with vectors of 256 bits
    "haswell": _HASWELL,
    "broadwell": _HASWELL,
    "znver1": _rates(fmas=1, latency=5, loads=1, l2=20, l3=12),
    "znver2": _ZEN_2,
    "znver3": _ZEN_3,
    "znver4": _ZEN_3,
    "znver5": _ZEN_5,
}
_WIDE = {  # with vectors of 512 bits
    "knl": _rates(latency=6, l2=20, l3=4),
    "knm": _rates(latency=6, l2=20, l3=4),
    # Zen 4 takes two cycles for each instruction on 512 bits.
    "znver4": _rates(fmas=1, loads=1, l2=25, l3=20),
    "znver5": _ZEN_5,
    "skylake-avx512": _rates(l2=40, l3=8),
    "cascadelake": _rates(l2=40, l3=8),
}
_USUAL_NARROW = _rates(l2=25)
_USUAL_WIDE = _rates(l2=40)

_AMD_FAMILIES = {0x17: "znver2", 0x19: "znver3", 0x1A: "znver5"}


def core_rates(mcpu: str | None, *, wide: bool) -> Rates:
    """The rates of a core.

    Args:
        mcpu: LLVM's name for the CPU; None for this machine's.
        wide: whether kernels use vectors of 512 bits.
    """
    name = _this_cpu() if mcpu is None else mcpu
    if wide:
        return _WIDE.get(name, _USUAL_WIDE)
    return _NARROW.get(name, _USUAL_NARROW)


def _this_cpu() -> str:
    """The name in the tables of this machine's CPU, without asking LLVM; empty for most of Intel's.

    The usual rates are those of Intel's cores since Skylake.
    """
    vendor, family = cpu_info.vendor_and_family()
    if vendor != "AuthenticAMD":
        return ""
    if family == 0x19 and "avx512f" in cpu_info.features():
        return "znver4"
    return _AMD_FAMILIES.get(family, "")
