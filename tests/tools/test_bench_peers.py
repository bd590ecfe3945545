import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def bench(load_tool):
    return load_tool("bench_peers")


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
    assert bench.verdict([row(bench, error=error)], limit=None, max_error=1e-4) == 3
    assert "relative error nan" in capsys.readouterr().out


def test_all_within_limits_exits_with_0(bench):
    assert bench.verdict([row(bench, ours=1.25)], limit=1.25, max_error=1e-4) == 0


def test_ratio_over_the_limit_exits_with_3(bench, capsys):
    assert bench.verdict([row(bench, ours=1.3)], limit=1.25, max_error=1e-4) == 3
    assert "1.30 times ONNX Runtime's time" in capsys.readouterr().out


def test_failed_model_exits_with_1_and_says_why(bench, capsys):
    rows = [row(bench), bench.Row("broken", 2, error="compile: no such operator")]
    assert bench.verdict(rows, limit=None, max_error=1e-4) == 1
    assert "broken, 2 thread(s): compile: no such operator" in capsys.readouterr().out


def test_failed_model_has_its_line_in_the_table(bench):
    table = bench.table_of([bench.Row("broken", 1, error="x"), row(bench)], ["onnxruntime"])
    assert list(table.columns[2].cells) == ["failed", "2.00"]


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
