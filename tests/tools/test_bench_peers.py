import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def bench(load_tool):
    return load_tool("bench_peers")


@pytest.fixture
def bench_rows(load_tool):
    return load_tool("bench_rows")


def row(bench, ours=2.0, theirs=1.0, error=1e-6):
    return bench.Row(
        "m",
        1,
        onnx_bytes=100,
        package_bytes=103,
        median_ms={"tvmopt": ours, "onnxruntime": theirs},
        relative_error=error,
    )


def test_ratio_is_our_time_over_theirs(bench):
    assert row(bench, ours=3.0, theirs=2.0).ratio("onnxruntime") == 1.5


def test_ratio_of_a_peer_that_was_not_measured_is_none(bench):
    assert row(bench).ratio("openvino") is None


def test_error_is_relative_to_the_largest_value(bench):
    expected = np.array([0.0, -4.0], np.float32)
    assert bench.error_of(expected + np.float32(1), expected) == 0.25


def test_error_of_a_zero_output_is_absolute(bench):
    assert bench.error_of(np.full(3, 0.5), np.zeros(3)) == 0.5


def test_nan_in_an_output_is_an_error(bench, capsys):
    error = bench.error_of(np.array([1.0, math.nan]), np.ones(2))
    assert bench.verdict([row(bench, error=error)], bench.Limits()) == 3
    assert "relative error nan" in capsys.readouterr().out


def test_all_within_limits_exits_with_0(bench):
    assert bench.verdict([row(bench, ours=1.25)], bench.Limits(ratio=1.25)) == 0


def test_ratio_over_the_limit_exits_with_3(bench, capsys):
    assert bench.verdict([row(bench, ours=1.3)], bench.Limits(ratio=1.25)) == 3
    assert "1.30 times ONNX Runtime's time" in capsys.readouterr().out


def pair(bench, first=1.0, second=4.0, threads=1):
    """Two models whose ratios to ONNX Runtime are the given ones."""
    return [
        bench.Row(name, threads, median_ms={"tvmopt": ratio, "onnxruntime": 1.0})
        for name, ratio in (("a", first), ("b", second))
    ]


def test_geometric_mean_is_of_the_models_of_one_number_of_threads(bench_rows):
    rows = pair(bench_rows) + pair(bench_rows, 3.0, 3.0, threads=2)
    means = bench_rows.geomeans(rows, "onnxruntime")
    assert means[1] == (pytest.approx(2.0), 2)
    assert means[2] == (pytest.approx(3.0), 2)


def test_geometric_mean_over_its_limit_exits_with_3(bench, capsys):
    limits = bench.Limits(geomean={"onnxruntime": 1.9})
    assert bench.verdict(pair(bench), limits) == 3
    assert "tvmopt / onnxruntime, 2.000, is over 1.9" in capsys.readouterr().out


def test_limit_on_a_peer_that_was_not_measured_is_not_kept(bench, capsys):
    assert bench.verdict(pair(bench), bench.Limits(geomean={"openvino": 1.0})) == 3
    assert "no ratio to openvino" in capsys.readouterr().out


def test_speed_up_is_one_threads_time_over_that_of_more(bench_rows):
    rows = pair(bench_rows, 4.0) + pair(bench_rows, 2.5, threads=2)
    assert bench_rows.speed_up(rows[2], rows) == 1.6
    assert bench_rows.speed_up(rows[0], rows) is None


def test_memory_over_its_limit_exits_with_3(bench, capsys):
    one = row(bench)
    one.run_peak_mb = {"tvmopt": 150.0, "onnxruntime": 100.0}
    assert bench.verdict([one], bench.Limits(memory=1.0)) == 3
    assert "1.50 times ONNX Runtime's memory is over 1.0" in capsys.readouterr().out


def test_compiling_longer_than_the_limit_exits_with_3(bench, capsys):
    one = row(bench)
    one.compile_seconds = 20.5
    assert bench.verdict([one], bench.Limits(compile_seconds=20)) == 3
    assert "compiled in 20.5 s" in capsys.readouterr().out


def save_model(path, *dims):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, dims)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out])), path)
    return path


def test_batch_size_replaces_an_open_first_dimension(bench, tmp_path):
    path = save_model(tmp_path / "m.onnx", "batch", 3)
    assert bench.input_shapes_at(path, 8) == {"x": (8, 3)}


def test_batch_size_does_not_replace_a_fixed_one(bench, tmp_path):
    path = save_model(tmp_path / "m.onnx", 1, 3)
    with pytest.raises(ValueError, match="has the fixed batch size 1"):
        bench.input_shapes_at(path, 8)


def test_what_measures_a_peers_memory_holds_no_tvm(bench):
    code = (
        "import sys, bench_peers, tvmopt.peers; "
        "print([name for name in ('tvm', 'tvm_ffi', 'onnx', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOOLS, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def quantized(bench, **values):
    return bench.Row("q", 1, quantized=True, relative_error=0.02, **values)


def test_quantized_models_may_differ_by_roundings(bench, capsys):
    one = quantized(bench)
    assert bench.verdict([one], bench.Limits()) == 0
    assert bench.verdict([one], bench.Limits(error=0.01)) == 3
    one.quantized = False
    assert bench.verdict([one], bench.Limits()) == 3


def test_our_float_time_has_a_limit_and_a_column(bench, capsys):
    one = quantized(bench, median_ms={"tvmopt": 1.0, "tvmopt float32": 2.0})
    assert bench.verdict([one], bench.Limits(float_ratio=0.5)) == 0
    assert bench.verdict([one], bench.Limits(float_ratio=0.4)) == 3
    assert "0.50 times our float32 time is over 0.4" in capsys.readouterr().out
    one.onnx_bytes = 1
    times, _ = bench.tables_of([one], [])
    assert [column.header for column in times.columns][2:5] == [
        "tvmopt",
        "tvmopt float32",
        "/ tvmopt float32",
    ]


def test_a_limit_on_a_float_time_that_was_not_measured_is_not_kept(bench, capsys):
    assert bench.verdict([quantized(bench)], bench.Limits(float_ratio=0.5)) == 3


def test_programs_say_what_they_compute(bench_rows):
    one = bench_rows.Row("q", 1, precision={"openvino": "2 of 3 products int8"})
    assert "q: openvino computes 2 of 3 products int8" in bench_rows.closing_lines([one], [])


def test_quantized_files_are_told_by_all_programs(bench, load_tool, tmp_path):
    made = load_tool("bench_quantized")
    source, path = save_products(tmp_path / "f.onnx"), tmp_path / "q.onnx"
    assert not made.is_quantized(source)
    made.quantize_file(source, path, reduce_range=True)
    assert made.is_quantized(path)
    initializers = {one.name: one for one in onnx.load(path).graph.initializer}
    weights = [numpy_helper.to_array(one) for one in initializers.values()]
    assert max(abs(one).max() for one in weights if one.dtype == np.int8) <= 64
    settings = bench.Settings("x86", [], ["onnxruntime"], 5, 0.1, 1)
    bench.compile_model(path, tmp_path / "q.tvmpkg", settings)
    bench.compile_model(source, tmp_path / "f.tvmpkg", settings)
    found = bench.measure(path, tmp_path / "q.tvmpkg", settings, 1, tmp_path / "f.tvmpkg")
    assert list(found["median_ms"]) == ["tvmopt", "tvmopt float32", "onnxruntime"]
    assert found["precision"] == {
        "tvmopt": "1 of 1 products int8",
        "onnxruntime": "1 of 1 products int8",
    }
    assert found["relative_error"] < 0.02


def save_products(path):
    """A convolution and a ReLU."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 16, 8, 8])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16, 8, 8])
    weight = np.random.default_rng(0).standard_normal((16, 16, 1, 1)).astype("float32")
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["z"]),
        onnx.helper.make_node("Relu", ["z"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_failed_model_exits_with_1_and_says_why(bench, capsys):
    rows = [row(bench), bench.Row("broken", 2, error="compile: no such operator")]
    assert bench.verdict(rows, bench.Limits()) == 1
    assert "broken, 2 thread(s): compile: no such operator" in capsys.readouterr().out


def test_failed_model_has_its_line_in_the_table(bench):
    rows = [bench.Row("broken", 1, error="x"), row(bench)]
    times, costs = bench.tables_of(rows, ["onnxruntime"])
    assert list(times.columns[2].cells) == ["failed", "2.00"]
    assert list(costs.columns[0].cells) == ["m"]


def test_json_is_read_back(bench, tmp_path):
    settings = bench.Settings("x86", [], ["onnxruntime"], 5, 1.0, 1)
    bench.write_json(tmp_path / "out.json", [row(bench)], settings)
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["rows"][0]["ratio"] == {"onnxruntime": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_peak_memory_counts_what_was_freed():
    # In a process of its own: one that has seen more already would not notice.
    code = (
        "import bench_peers; before = bench_peers.peak_mb(); "
        "block = bytearray(b'x') * 80_000_000; del block; "
        "print(bench_peers.peak_mb() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOOLS, capture_output=True, text=True, check=True
    )
    assert 70 < float(done.stdout) < 90
