import gc
import sys

import numpy as np
import pytest

from tvmopt import MissingPackageError, ModelError, UsageError
from tvmopt.compiler.benchmark import BenchmarkResult, benchmark_alternating, ratios
from tvmopt.peers import peer_runners


def test_percentiles_mean_and_minimum():
    result = BenchmarkResult("a", 1, tuple(float(i) for i in range(1, 102)))
    assert (result.p50_us, result.p90_us, result.p99_us) == (51, 91, 100)
    assert (result.mean_us, result.min_us) == (51, 1)
    assert result.to_json()["p90_us"] == 91


def test_runners_take_turns_in_rotating_order():
    order: list[str] = []
    runners = {name: lambda name=name: order.append(name) for name in "abc"}
    results = benchmark_alternating(runners, repeat=3, number=1, warmup=1)
    assert order[:3] == ["a", "b", "c"]
    turns = order[3::2]
    assert order[4::2] == turns  # each turn begins with a run that is not counted
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(result.latencies_us) for name, result in results.items()} == dict.fromkeys(
        "abc", 3
    )


def test_number_runs_make_one_latency():
    calls = []
    results = benchmark_alternating({"a": lambda: calls.append(0)}, repeat=2, number=5, warmup=3)
    assert len(calls) == 3 + 2 * 5
    assert len(results["a"].latencies_us) == 2


def test_the_garbage_collector_is_off_while_measuring_and_on_again_after():
    states = []
    benchmark_alternating({"a": lambda: states.append(gc.isenabled())}, repeat=1, warmup=0)
    assert states == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(("name", "count"), [("repeat", 0), ("number", 0), ("warmup", -1)])
def test_counts_that_make_no_sense_are_refused(name, count):
    with pytest.raises(UsageError, match=f"{name} must be at least"):
        benchmark_alternating({"a": lambda: None}, **{name: count})


def test_ratios_are_ours_over_theirs():
    results = {
        name: BenchmarkResult(name, 1, (value,))
        for name, value in [("tvmopt", 10.0), ("x", 20.0), ("y", 5.0)]
    }
    assert ratios(results) == {"x": 0.5, "y": 2.0}


def test_a_package_measures_itself(small_package):
    result = small_package.benchmark(repeat=4, number=2, warmup=1, threads=1)
    assert len(result.latencies_us) == 4
    assert result.min_us > 0


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_peer_runs_the_original(small, small_package, peer):
    pytest.importorskip(peer)
    inputs = small_package.sample_inputs()
    peer_runners([peer], small.request.source.path, inputs, 1)[peer]()


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_missing_peer_names_the_extra(small, peer, monkeypatch):
    monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(MissingPackageError, match=f"{peer} is not installed") as caught:
        peer_runners([peer], small.request.source.path, {}, 1)
    assert caught.value.hint == "pip install 'tvmopt[peers]'"


def test_a_misspelt_peer_gets_the_nearest_name(small):
    with pytest.raises(UsageError) as caught:
        peer_runners(["onnxruntim"], small.request.source.path, {}, 1)
    assert caught.value.hint == "did you mean 'onnxruntime'?"


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_model_that_a_peer_does_not_take_is_told_in_one_line(tmp_path, peer):
    pytest.importorskip(peer)
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"does not run '.*broken\.onnx'") as caught:
        peer_runners([peer], path, {"x": np.zeros(1, np.float32)}, 1)
    assert "\n" not in str(caught.value)
