"""Weights and tables in int8 without calibration data: exact, and small."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt import UsageError
from tvmopt.quantization import Encoding, quantize_rows
from tvmopt_plugins.quantize import QuantizeWeights

ROWS, DEPTH, COLUMNS, WORDS = 5, 40, 24, 9
RNG = np.random.default_rng(3)
WEIGHT = (RNG.standard_normal((DEPTH, COLUMNS)) * RNG.uniform(0.1, 4, COLUMNS)).astype(np.float32)
TABLE = (RNG.standard_normal((WORDS, DEPTH)) * RNG.uniform(0.1, 4, (WORDS, 1))).astype(np.float32)
BIAS = RNG.standard_normal(COLUMNS).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gathered = table[ids]; y = x @ weight + bias`, and a product with the table's transpose."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["gathered"], name="gather"),
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("Add", ["product", "bias"], ["y"], name="add"),
        helper.make_node("MatMul", ["x", "scores_weight"], ["scores"], name="scores"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ROWS, DEPTH]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, [4]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("gathered", "y", "scores")
    ]
    weights = {"table": TABLE, "weight": WEIGHT, "bias": BIAS, "scores_weight": TABLE.T.copy()}
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    path = tmp_path_factory.mktemp("m") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def compiled(model: Path, **options: str) -> Any:
    passes = {"quantize-weights": options}
    return tvmopt.compile(model, target="x86-avx2", passes=passes, measure=False)


def feeds() -> dict[str, Any]:
    x = RNG.standard_normal((1, ROWS, DEPTH)).astype(np.float32) * 3
    x[0, 1] = 0  # a row without a range
    x[0, 2] = np.abs(x[0, 2])
    return {"x": x, "ids": np.array([0, 8, 3, 3])}


def encoded(weight: Any, axis: int | None, limit: int) -> Encoding:
    others = tuple(i for i in range(2) if i != axis)
    low, high = weight.min(axis=others), weight.max(axis=others)
    return Encoding.of_range(low, high, "int8", symmetric=True, limit=limit, axis=axis)


@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_dynamic_products_are_those_of_integers(model: Path, per_channel: str) -> None:
    package = compiled(model, activations="dynamic", **{"per-channel": per_channel})
    given = feeds()
    encoding = encoded(WEIGHT, 1 if per_channel == "true" else None, limit=64)
    weight = encoding.quantize(WEIGHT).astype(np.int32)
    rows, scale, zero_point = quantize_rows(given["x"])
    total = (rows.astype(np.int32) - zero_point) @ weight
    exact = total.astype(np.float32) * scale * encoding.scale + BIAS
    np.testing.assert_allclose(package.run(given)["y"], exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_weights_alone_are_widened_in_the_kernel(model: Path, per_channel: str) -> None:
    package = compiled(model, **{"per-channel": per_channel})
    given = feeds()
    stored = encoded(WEIGHT, 1 if per_channel == "true" else None, limit=127).round_trip(WEIGHT)
    exact = given["x"].astype(np.float64) @ stored + BIAS
    # 40 products of about 6 x 6, each rounded to 2^-24: 1e-4 at most.
    np.testing.assert_allclose(package.run(given)["y"], exact, rtol=1e-5, atol=1e-4)
    table = encoded(TABLE, 0 if per_channel == "true" else None, limit=127).round_trip(TABLE)
    np.testing.assert_array_equal(package.run(given)["gathered"], table[given["ids"]])


def test_weights_and_tables_are_a_quarter_and_tied_ones_are_stored_once(model: Path) -> None:
    package = compiled(model)
    rows = {line.nodes: line for line in package.manifest.report.quantization}
    assert {line.op for line in rows.values() if line.dtype == "int8"} == {"matmul", "take"}
    table, product = rows[("gather",)], rows[("product",)]
    assert (table.bytes_float, table.bytes_int8) == (TABLE.nbytes, TABLE.size + 4 * WORDS)
    assert (product.bytes_float, product.bytes_int8) == (WEIGHT.nbytes, WEIGHT.size + 4 * COLUMNS)
    remarks = [(one.op, one.message) for one in package.manifest.report.remarks]
    assert ("gather", "rows are read from the packed weight of scores") in remarks


def test_what_is_excluded_stays_float(check: Any, model: Path) -> None:
    package = compiled(model, exclude="product|gather")
    lines = {one.nodes[0]: one for one in package.manifest.report.quantization}
    assert lines["product"].why == "asked for by exclude=product"
    assert lines["scores"].dtype == "int8"
    assert "gather" not in lines


def test_an_unknown_kind_of_activations_is_refused() -> None:
    with pytest.raises(UsageError, match="one of float32, dynamic, got 'int4'"):
        QuantizeWeights(activations="int4")
