import time

import numpy as np
import pytest

from tvmopt import UsageError
from tvmopt.compiler.peak import core_peak, vector_lanes
from tvmopt.compiler.profile import time_layers


@pytest.fixture(scope="module")
def profile(small_package_path):
    from tvmopt.compiler.package import Package

    return Package.load(small_package_path).profile(repeat=3, warmup=1, threads=1)


def test_every_layer_has_a_row_in_order(profile):
    assert [row.layer.nodes for row in profile.layers] == [
        ("pick",),
        ("sum",),
        ("product",),
        ("relu",),
    ]


def test_shares_add_up_to_one(profile):
    assert sum(row.share for row in profile.layers) == pytest.approx(1)
    assert profile.layers_us == pytest.approx(sum(row.time_us for row in profile.layers))


def test_speeds_follow_from_operations_bytes_and_time(profile):
    row = profile.layers[2]
    assert row.gflops == pytest.approx(1024 / (row.time_us * 1000))
    assert row.peak_share == pytest.approx(row.gflops / profile.peak.gflops)
    assert row.gbytes_per_s == pytest.approx(896 / (row.time_us * 1000))


def test_the_profile_is_json(profile):
    data = profile.to_json()
    assert data["layers"][2]["nodes"] == ["product"]
    assert data["core_peak_gflops"] == profile.peak.gflops


def test_a_slow_kernel_is_the_one_that_is_charged(small_package, monkeypatch):
    """The time between `before` and `after` goes to the kernel of that call and no other."""
    layers = small_package.report.layers
    executor = small_package.executor

    def play(_inputs, _threads, instrument, runs):
        for _ in range(runs):
            for layer in layers:
                instrument(None, "vm.builtin.null_value", 1, None)
                instrument(None, "vm.builtin.null_value", 0, None)
                instrument(None, layer.kernel, 1, None)
                if layer.kernel == "matmul":
                    time.sleep(0.002)
                instrument(None, layer.kernel, 0, None)
                time.sleep(0.001)

    monkeypatch.setattr(executor, "run_instrumented", play)
    times = time_layers(executor, layers, {}, 1, repeat=3, warmup=1)
    assert np.argmax(times) == 2
    assert times[2] >= 2000 - 100
    assert max(times[0], times[1], times[3]) < 500


def test_repeat_must_be_positive(small_package):
    with pytest.raises(UsageError, match="repeat must be at least 1"):
        small_package.profile(repeat=0)


def test_the_peak_is_measured_once_and_above_a_scalar_loop(small_package):
    peak = core_peak(small_package.manifest.target)
    assert core_peak(small_package.manifest.target) is peak
    assert peak.gflops > 1
    assert peak.gbytes_per_s > 0.1


@pytest.mark.parametrize(
    ("isa", "lanes"), [((), 4), (("avx", "avx2"), 8), (("avx", "avx2", "avx512f"), 16)]
)
def test_lanes_follow_from_the_isa(isa, lanes):
    assert vector_lanes(isa) == lanes
