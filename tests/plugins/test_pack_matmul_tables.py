"""Word embeddings that are also the output projection's weight: stored once, read by both."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import tvmopt
from tvmopt.compiler.package import Package

DEPTH = 40
node = helper.make_node


def _words(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DEPTH)).astype("float32")


def _language_model(words: np.ndarray, ids: np.ndarray, projection: np.ndarray) -> onnx.ModelProto:
    """`embedded = words[ids]`, `logits = tanh(embedded) @ projection.T`."""
    nodes = [
        node("Gather", ["words", "ids"], ["embedded"], name="embedding"),
        node("Tanh", ["embedded"], ["hidden"]),
        node("Transpose", ["projection"], ["weight"]),
        node("MatMul", ["hidden", "weight"], ["logits"], name="projection"),
    ]
    dtype = helper.np_dtype_to_tensor_dtype(ids.dtype)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("ids", dtype, ids.shape)],
        [
            helper.make_tensor_value_info("embedded", 1, [*ids.shape, DEPTH]),
            helper.make_tensor_value_info("logits", 1, [*ids.shape, len(projection)]),
        ],
        [
            numpy_helper.from_array(words, "words"),
            numpy_helper.from_array(projection, "projection"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _compiled(
    folder: Path,
    words: np.ndarray,
    ids: np.ndarray,
    projection: np.ndarray | None = None,
    **options: Any,
) -> Package:
    """The compiled model, which gives what ONNX Runtime gives."""
    path = folder / "model.onnx"
    onnx.save(_language_model(words, ids, words if projection is None else projection), path)
    package = tvmopt.compile(path, **{"target": "x86-avx2", **options})
    embedded, logits = onnxruntime.InferenceSession(path).run(None, {"ids": ids})
    ours = package.run({"ids": ids})
    np.testing.assert_array_equal(ours["embedded"], embedded)
    # Both add DEPTH products of at most 1 * max |words|, and round at each addition.
    bound = 2 * DEPTH * 2.0**-24 * DEPTH * (np.abs(words).max() + 1)
    np.testing.assert_allclose(ours["logits"], logits, rtol=0, atol=bound)
    return package


def _stored(package: Package) -> int:
    """Numbers that the package stores."""
    return sum(int(np.prod(weight.shape)) for weight in package.manifest.weights)


def _remarks(package: Package) -> list[str]:
    return [r.message for r in package.report.remarks if r.op == "embedding"]


@pytest.mark.parametrize("rows", [96, 101])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_table_and_projection_are_one_weight(rows: int, dtype: str, tmp_path: Path) -> None:
    ids = np.array([[0, rows - 1, -1, -rows, 5, rows // 2, 5]], dtype)
    package = _compiled(tmp_path, _words(rows), ids)
    assert rows * DEPTH <= _stored(package) < (rows + 64) * DEPTH
    assert _remarks(package) == ["rows are read from the packed weight of projection"]


@pytest.mark.parametrize("shape", [(1,), (2, 3, 2), (150, 2)])
def test_indices_have_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    ids = np.arange(np.prod(shape), dtype="int64").reshape(shape) % 101 - 30
    package = _compiled(tmp_path, _words(101), ids)
    assert _stored(package) < (101 + 64) * DEPTH


def test_a_projection_of_other_numbers_is_stored_beside_the_table(tmp_path: Path) -> None:
    words = _words(101)
    other = words.copy()
    other[100, DEPTH - 1] += 1
    package = _compiled(tmp_path, words, np.array([[3, 100]]), other)
    assert _stored(package) >= 2 * 101 * DEPTH
    assert _remarks(package) == []


def test_a_projection_in_16_bits_says_why_the_table_stays(tmp_path: Path) -> None:
    onnx.save(_language_model(_words(101), np.array([[3, 100]]), _words(101)), tmp_path / "m.onnx")
    package = tvmopt.compile(
        tmp_path / "m.onnx",
        target="x86-bf16",
        passes={"mixed-precision": {"dtype": "bfloat16"}},
        verify=False,
    )
    assert "stored beside the weight of projection, which has 16 bits" in _remarks(package)
