"""Quantized graphs are written so that ONNX Runtime computes them with its integer kernels."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_onnx import model, node, value

onnxruntime = pytest.importorskip("onnxruntime")
quantized_nets = pytest.importorskip("quantized_nets")

from round_trip import assert_same, exported, onnx_runtime  # noqa: E402 - it runs the models

from tvmopt import ModelError  # noqa: E402

RNG = np.random.default_rng(0)
QUANTIZER = onnxruntime.quantization


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def kinds(path: Path) -> Counter[str]:
    return Counter(item.op_type for item in onnx.load(path).graph.node)


def saved(folder: Path, made: onnx.ModelProto) -> Path:
    onnx.save(made, folder / "model.onnx")
    return folder / "model.onnx"


U8S8 = {
    "activation_type": QUANTIZER.QuantType.QUInt8,  # it has integer kernels on x86 for these only
    "weight_type": QUANTIZER.QuantType.QInt8,
    "per_channel": True,
    "reduce_range": True,
}


@pytest.mark.parametrize(
    ("net", "kernels"),
    [
        ("conv_net", {"QLinearConv": 4, "QLinearAdd": 1, "QLinearConcat": 1, "QGemm": 1}),
        ("transformer", {"QLinearMatMul": 8, "QLinearAdd": 9, "QLinearSoftmax": 1}),
    ],
)
def test_quantized_net_runs_in_the_same_integer_kernels(
    net: str, kernels: dict[str, int], tmp_path: Path
) -> None:
    """The results are equal bit by bit: not one quantum departs."""
    made = quantized_nets.static(quantized_nets.NETS[net](), tmp_path, **U8S8)
    again = exported(saved(tmp_path, made))
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    before = onnx_runtime(made, feeds, tmp_path / "before.onnx")
    after = onnx_runtime(again, feeds, tmp_path / "after.onnx")
    for actual, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(actual, expected)
    for name in ("before.onnx", "after.onnx"):
        found = kinds(tmp_path / name)
        assert {kind: found[kind] for kind in kernels} == kernels


def test_net_of_quantized_operators_runs_in_integer_kernels_again(tmp_path: Path) -> None:
    made = quantized_nets.static(
        quantized_nets.conv_net(), tmp_path, quant_format=QUANTIZER.QuantFormat.QOperator, **U8S8
    )
    again = exported(saved(tmp_path, made))
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    after = onnx_runtime(again, feeds, tmp_path / "after.onnx")
    for actual, expected in zip(after, onnx_runtime(made, feeds), strict=True):
        np.testing.assert_array_equal(actual, expected)
    found = kinds(tmp_path / "after.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (4, 1, 1)


def test_dynamically_quantized_net_keeps_its_integer_products(tmp_path: Path) -> None:
    made = quantized_nets.dynamic(quantized_nets.conv_net(), tmp_path, per_channel=True)
    again = exported(saved(tmp_path, made))
    found = Counter(item.op_type for item in again.graph.node)
    assert found["ConvInteger"] == 4
    assert found["MatMulInteger"] == 1
    assert_same(again, made, quantized_nets.samples(made, 1, seed=9)[0])


def between(nodes: list[Any], shape: list[int], constants: dict[str, np.ndarray]) -> Any:
    """Nodes that make `p` of `r` between a dequantization and a quantization."""
    parameters = {
        "xs": np.array(0.02, np.float32),
        "xz": np.array(120, np.uint8),
        "ys": np.array(0.05, np.float32),
        "yz": np.array(100, np.uint8),
    }
    return model(
        [
            node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
            node("DequantizeLinear", ["q", "xs", "xz"], ["r"]),
            *nodes,
            node("QuantizeLinear", ["p", "ys", "yz"], ["y"]),
        ],
        [value("x", shape)],
        [value("y", None, "uint8")],
        {**parameters, **constants},
        opset=17,
    )


def weight(*shape: int, axis: int) -> dict[str, np.ndarray]:
    return {
        "w": RNG.integers(-63, 63, shape).astype(np.int8),
        "ws": (0.01 + 0.01 * RNG.random(shape[axis])).astype(np.float32),
    }


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["conv", "gemm", "gemm of a transpose"])
def test_float_bias_of_a_quantized_product_becomes_int32(
    kind: str, per_channel: bool, tmp_path: Path
) -> None:
    axis = 1 if kind == "gemm" else 0
    dequantize = node("DequantizeLinear", ["w", "ws"], ["v"], axis=axis)
    if kind == "conv":
        constants, shape = weight(5, 4, 3, 3, axis=0), [1, 4, 6, 6]
        nodes = [dequantize, node("Conv", ["r", "v", "b"], ["p"])]
    elif kind == "gemm":
        constants, shape = weight(8, 5, axis=1), [3, 8]
        nodes = [dequantize, node("Gemm", ["r", "v", "b"], ["p"])]
    else:
        constants, shape = weight(5, 8, axis=0), [3, 8]
        nodes = [dequantize, node("Gemm", ["r", "v", "b"], ["p"], transB=1)]
    if not per_channel:
        constants["ws"] = np.array(0.013, np.float32)
    made = between(nodes, shape, {**constants, "b": floats(5)})
    again = exported(saved(tmp_path, made))
    feeds = {"x": floats(*shape)}
    (expected,) = onnx_runtime(made, feeds)
    (actual,) = onnx_runtime(again, feeds, tmp_path / "after.onnx")
    # the bias moves by up to half of x_scale * w_scale, some hundredth of a quantum
    assert np.abs(actual.astype(int) - expected).max() <= 1
    assert (actual == expected).mean() > 0.9
    assert kinds(tmp_path / "after.onnx")["QLinearConv" if kind == "conv" else "QGemm"] == 1
    assert onnx.TensorProto.INT32 in {item.data_type for item in again.graph.initializer}


def test_transposed_weight_is_stored_transposed(tmp_path: Path) -> None:
    """Otherwise a transpose would stand between it and the product of three dimensions."""
    nodes = [
        node("DequantizeLinear", ["w", "ws"], ["v"], axis=0),
        node("Transpose", ["v"], ["t"], perm=[1, 0]),
        node("MatMul", ["r", "t"], ["p"]),
    ]
    made = between(nodes, [2, 3, 8], weight(5, 8, axis=0))
    again = exported(saved(tmp_path, made))
    assert "Transpose" not in {item.op_type for item in again.graph.node}
    assert [8, 5] in [list(item.dims) for item in again.graph.initializer]
    assert_same(again, made, {"x": floats(2, 3, 8)})
    onnx_runtime(again, {"x": floats(2, 3, 8)}, tmp_path / "after.onnx")
    assert kinds(tmp_path / "after.onnx")["QLinearMatMul"] == 1


def test_16_bits_need_operator_set_21(tmp_path: Path) -> None:
    made = model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [value("x", [4])],
        [value("y", [4])],
        {"s": np.array(1e-3, np.float32), "z": np.array(30_000, np.uint16)},
        opset=21,
    )
    path = saved(tmp_path, made)
    with pytest.raises(ModelError, match=r"node 'quantize' .*uint16 needs operator set 21"):
        exported(path)
    assert_same(exported(path, 21), made, {"x": floats(4)})
