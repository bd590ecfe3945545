"""The x86-64 backend: AVX2 and AVX-512 CPUs, this machine by default."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tvmopt import Backend, Capabilities, Device, UsageError, hookimpl
from tvmopt_plugins.target_x86 import cpu_info
from tvmopt_plugins.target_x86.core_rates import core_rates

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir.dlight import ScheduleRule

    from tvmopt.quantization import QuantizationScheme

_BASE = ("sse4.2", "avx", "avx2", "fma", "f16c", "bmi2")
_AVX512 = (*_BASE, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512vnni")
_BF16 = (*_VNNI, "avx512bf16")
_DOT_PRODUCTS = {"avx512vnni", "avxvnni"}
_LIMIT_OF_16_BITS = 64
"""Without VNNI, `vpmaddubsw` adds two products of uint8 and int8 in 16 bits, and saturates."""
_USUAL_CACHES = (32 << 10, 1 << 20, 16 << 20)


class X86(Backend):
    """x86-64 with AVX2 or AVX-512."""

    name: ClassVar[str] = "x86"
    description: ClassVar[str] = "x86-64 CPUs; without options, this machine"
    devices: ClassVar[Sequence[Device]] = (
        Device("x86-avx2", "any x86-64 CPU with AVX2 and FMA", {"mcpu": "x86-64-v3"}),
        Device("x86-avx512", "CPUs with AVX-512 (F, BW, CD, DQ, VL)", {"mcpu": "x86-64-v4"}),
        Device("x86-vnni", "CPUs with AVX-512 VNNI", {"mcpu": "cascadelake"}),
        Device("x86-bf16", "CPUs with AVX-512 VNNI and BF16", {"mcpu": "cooperlake"}),
    )
    option_names: ClassVar[Mapping[str, str]] = {
        "mcpu": "CPU name as LLVM knows it, such as znver4 or skylake-avx512",
        "num-cores": "cores that kernels may spread over",
    }

    @property
    def capabilities(self) -> Capabilities:
        features = frozenset(self.isa())
        wide = "avx512f" in features
        l1_bytes, l2_bytes, l3_bytes = cpu_info.cache_bytes() if self._is_native else _USUAL_CACHES
        return Capabilities(
            lanes=16 if wide else 8,
            registers=32 if wide else 16,
            cores=self._cores(),
            l1_bytes=l1_bytes,
            l2_bytes=l2_bytes,
            features=features,
            l3_bytes=l3_bytes,
            **core_rates(self.options.get("mcpu"), wide=wide),
        )

    def target(self) -> "tvm.target.Target":
        import tvm

        from tvmopt_plugins.target_x86.llvm import TRIPLE, cpu_features, this_cpu

        mcpu = self.options.get("mcpu") or this_cpu()
        attributes = [f"+{feature}" for feature in self.isa()]
        if self._is_native:
            # A hypervisor may hide what the CPU model has: LLVM must not use it.
            hidden = cpu_features(mcpu) - cpu_info.features()
            attributes += sorted(f"-{f}" for f in hidden if f.startswith(("avx", "amx")))
        return tvm.target.Target(
            {
                "kind": "llvm",
                "mtriple": TRIPLE,
                "mcpu": mcpu,
                "mattr": [*attributes, "-prefer-256-bit"],
                "num-cores": self._cores(),
            }
        )

    def legalizations(self) -> Mapping[str, Any]:
        from tvmopt_schedules.cpu.legalize import legalizations

        return legalizations()

    def schedule_rules(self) -> "Sequence[ScheduleRule]":
        from tvmopt_schedules.x86.rules import rules

        return rules(self._machine())

    def quantization(self) -> "QuantizationScheme":
        from tvmopt.quantization import QuantizationScheme

        if _DOT_PRODUCTS & self.capabilities.features:
            return QuantizationScheme()
        return QuantizationScheme(weight_limit=_LIMIT_OF_16_BITS)

    def isa(self) -> Sequence[str]:
        if self._is_native:
            present = cpu_info.features()
            return tuple(f for f in _BF16 if f in present)
        mcpu = self.options["mcpu"]
        known = {
            "x86-64-v3": _BASE,
            "x86-64-v4": _AVX512,
            "cascadelake": _VNNI,
            "cooperlake": _BF16,
        }
        if mcpu in known:
            return known[mcpu]
        from tvmopt_plugins.target_x86.llvm import cpu_features

        present = cpu_features(mcpu)
        if not set(_BASE) <= present:
            raise UsageError(
                f"target '{self.device}': the CPU '{mcpu}' has no AVX2 and FMA",
                "the x86 backend needs them; the oldest such CPU is haswell",
            )
        return tuple(f for f in _BF16 if f in present)

    @property
    def _is_native(self) -> bool:
        return "mcpu" not in self.options

    def _cores(self) -> int:
        text = self.options.get("num-cores")
        if text is None:
            return cpu_info.physical_cores()
        if not text.isdecimal() or int(text) == 0:
            message = f"target '{self.device}': num-cores wants a positive number, got '{text}'"
            raise UsageError(message)
        return int(text)

    def _machine(self) -> Any:
        from tvmopt_schedules.cpu.machine import Machine

        return Machine.of(self.capabilities)


@hookimpl
def tvmopt_register_backends() -> list[type[Backend]]:
    return [X86]
