"""The x86 backend: which CPU a target stands for."""

import subprocess
import sys

import pytest

from tvmopt import Backend, UsageError
from tvmopt.plugins import Plugins
from tvmopt_plugins.target_x86 import X86, cpu_info
from tvmopt_plugins.target_x86.core_rates import core_rates


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.load()


def test_this_machine_uses_what_the_kernel_reports(plugins: Plugins) -> None:
    backend = plugins.backend("x86")
    assert set(backend.isa()) <= cpu_info.features()
    wide = "avx512f" in backend.isa()
    assert backend.capabilities.lanes == (16 if wide else 8)
    assert backend.capabilities.registers == (32 if wide else 16)


def test_features_that_a_hypervisor_hides_are_switched_off(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible = frozenset({"sse4.2", "avx", "avx2", "fma", "f16c", "bmi2"})
    monkeypatch.setattr(cpu_info, "features", lambda: visible)
    monkeypatch.setattr("tvmopt_plugins.target_x86.llvm.this_cpu", lambda: "cascadelake")
    backend = plugins.backend("x86")
    assert "-avx512f" in backend.target().attrs["mattr"]
    assert backend.capabilities.lanes == 8


@pytest.mark.parametrize(
    ("spec", "lanes", "vnni"),
    [
        ("x86-avx2", 8, False),
        ("x86-avx512", 16, False),
        ("x86-vnni", 16, True),
        ("x86,mcpu=skylake-avx512", 16, False),
        ("x86,mcpu=znver4", 16, True),
        ("x86,mcpu=haswell", 8, False),
    ],
)
def test_named_cpu_decides_lanes_and_features(
    plugins: Plugins, spec: str, lanes: int, vnni: bool
) -> None:
    backend: Backend = plugins.backend(spec)
    assert backend.capabilities.lanes == lanes
    assert ("avx512vnni" in backend.isa()) == vnni
    assert backend.target().attrs["mcpu"] == backend.options["mcpu"]


@pytest.mark.parametrize(
    ("spec", "limit"), [("x86-avx2", 64), ("x86-avx512", 64), ("x86-vnni", 127), ("x86-bf16", 127)]
)
def test_weights_are_limited_where_products_are_added_in_16_bits(
    plugins: Plugins, spec: str, limit: int
) -> None:
    scheme = plugins.backend(spec).quantization()
    assert scheme is not None
    assert (scheme.activation, scheme.weight) == ("uint8", "int8")
    assert scheme.weight_limit == limit


def test_misspelt_cpu_gets_the_nearest_name(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="'znver44'") as caught:
        plugins.backend("x86,mcpu=znver44").target()
    assert caught.value.hint == "did you mean 'znver4'?"


def test_cpu_without_avx2_is_refused(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="'nehalem' has no AVX2"):
        plugins.backend("x86,mcpu=nehalem").target()


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_number_of_cores_must_be_positive(plugins: Plugins, count: str) -> None:
    with pytest.raises(UsageError, match="num-cores"):
        plugins.backend(f"x86,num-cores={count}").target()


def test_unknown_option_gets_the_nearest_name(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="'mcpuu'") as caught:
        plugins.backend("x86,mcpuu=znver4")
    assert caught.value.hint == "did you mean 'mcpu'?"


def test_capabilities_of_named_devices_need_no_tvm() -> None:
    code = (
        "import sys; from tvmopt.plugins import Plugins;"
        "[Plugins.load().backend(n).capabilities for n in ('x86', 'x86-avx2', 'x86-vnni')];"
        "sys.exit('tvm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_zen_4_core_begins_one_wide_multiply_add_a_cycle():
    def rate(mcpu):
        return X86("x86", {"mcpu": mcpu}).capabilities.fmas_per_cycle

    assert rate("znver4") == 1  # its units have 256 bits
    assert rate("znver5") == rate("icelake-server") == rate("haswell") == 2


def test_peak_operations_follow_from_lanes_and_units():
    assert X86("x86-avx2").capabilities.flops_per_cycle == 2 * 8 * 2
    assert X86("x86-avx512").capabilities.flops_per_cycle == 2 * 16 * 2


def test_nearer_memory_is_faster_on_every_core():
    for wide in (False, True):
        for name in ("", "haswell", "znver2", "znver4", "znver5", "skylake-avx512", "knl"):
            rates = core_rates(name, wide=wide)
            assert (
                rates["l2_bytes_per_cycle"]
                > rates["l3_bytes_per_cycle"]
                >= rates["memory_bytes_per_cycle"]
                > 0
            )
