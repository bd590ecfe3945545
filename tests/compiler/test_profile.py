import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt import Layer, UsageError
from tvmopt.compiler.bandwidth import read_gbytes_per_s
from tvmopt.compiler.peak import CorePeak, core_peak, vector_lanes
from tvmopt.compiler.profile import Limits, time_layers


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


def test_no_roofline_is_above_the_fastest_it_could_be(profile):
    for row in profile.layers:
        least_us = row.layer.flops / (profile.peak.gflops * 1000)
        assert row.roofline_us >= least_us * (1 - 1e-9)
        assert row.roofline_us > 0
        assert 0 < row.roofline_share <= 1


def test_the_worst_layers_lose_the_most_time(profile):
    worst = profile.worst(2)
    assert [row.lost_us for row in worst] == sorted(
        (row.lost_us for row in profile.layers), reverse=True
    )[:2]


def test_a_layer_without_a_prediction_has_none(profile):
    assert all(row.predicted_us is None for row in profile.layers)


def test_predicted_cycles_become_time_by_the_measured_peak(small_package):
    layer = Layer("k", ("n",), "matmul", "rule", "", 0, 64, (), 0, 6400.0, 3)
    report = replace(small_package.report, flops_per_cycle=64.0)
    package = SimpleNamespace(manifest=small_package.manifest, report=report)
    # 256 GFLOP/s at 64 a cycle are 4 GHz; of three pieces, the busiest of two threads has two.
    alone, shared = (Limits(package, CorePeak(256.0, 1.0), count) for count in (1, 2))
    assert alone.predicted_us(layer) == pytest.approx(1.6)
    assert shared.predicted_us(layer) == pytest.approx(1.6 * 2 / 3)


def test_reading_from_a_cache_is_faster_than_from_memory(small_package):
    target = small_package.manifest.target
    near, far = (read_gbytes_per_s(target, size, 1) for size in (256 << 10, 256 << 20))
    assert 0 < far < near
    assert read_gbytes_per_s(target, 200 << 10, 1) == near


def test_the_roofline_of_bfloat16_products_is_the_peak_for_them(small_package):
    peak = CorePeak(200.0, 1.0, 400.0)
    limits = Limits(small_package, peak, 1)
    layer = Layer("k", ("n",), "matmul", "rule", "", 4_000_000, 0, (), products="bfloat16")
    assert limits.roofline_us(layer) == pytest.approx(10.0)
    assert limits.roofline_us(replace(layer, products="float32")) == pytest.approx(20.0)
    assert CorePeak(200.0, 1.0).of("bfloat16") == 200.0  # no instruction for them


def test_the_peak_for_integers_is_above_that_of_floats(small_package):
    peak = core_peak(small_package.manifest.target)
    assert peak.int8_gops > peak.gflops
    assert peak.of("int8") == peak.int8_gops


def test_the_peak_for_bfloat16_is_measured_where_the_cpu_has_it(small_package):
    peak = core_peak(small_package.manifest.target)
    has_it = "avx512bf16" in small_package.manifest.target.isa
    assert (peak.bfloat16_gflops > 0) == has_it
