"""Models that are quantized already compute what ONNX Runtime computes, within one quantum."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_backend import cases, run_cases
from small_onnx import imported, model, node, run, value

from tvmopt import ModelError

onnxruntime = pytest.importorskip("onnxruntime")
quantized_nets = pytest.importorskip("quantized_nets")

QUANTIZER = onnxruntime.quantization
RNG = np.random.default_rng(0)

TYPES = {
    "U8S8": {"activation_type": "QUInt8", "weight_type": "QInt8"},
    "U8U8": {"activation_type": "QUInt8", "weight_type": "QUInt8"},
    "S8S8": {"activation_type": "QInt8", "weight_type": "QInt8"},
}


def options(types: str, *, per_channel: bool) -> dict[str, Any]:
    """Options of the quantizer. Signed weights have 7 bits: ONNX Runtime's kernels for AVX2 add two
    products in 16 bits, which overflow with 8.
    """
    chosen = {name: QUANTIZER.QuantType[kind] for name, kind in TYPES[types].items()}
    signed = TYPES[types]["weight_type"] == "QInt8"
    return {**chosen, "per_channel": per_channel, "reduce_range": signed}


def onnx_runtime(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, fused: bool = True
) -> list[np.ndarray]:
    """What ONNX Runtime computes; without `fused`, quantize and dequantize run as nodes."""
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    if not fused:
        session_options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), session_options)
    return session.run(None, dict(feeds))


def assert_within_a_quantum(
    actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], share: float = 0.999
) -> None:
    """Compares outputs that end in a quantization, so that they have at most 256 values."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        steps = np.diff(np.unique(other.astype(np.float64)))
        quantum = steps[steps > 1e-6 * np.ptp(other)].min()
        distance = np.abs(one.astype(np.float64) - other)
        assert (distance <= 1.001 * quantum).mean() >= share


def quantized_ops(result: Any) -> Iterator[Any]:
    for block in result.module["main"].body.blocks:
        for binding in block.bindings:
            if getattr(getattr(binding.value, "op", None), "name", "").endswith("quantize"):
                yield binding.value


@pytest.mark.parametrize(
    ("types", "per_channel"),
    [
        ("U8S8", True),
        pytest.param("U8U8", False, marks=pytest.mark.slow),
        pytest.param("S8S8", True, marks=pytest.mark.slow),
    ],
)
def test_conv_net_of_quantized_operators(tmp_path: Path, types: str, per_channel: bool) -> None:
    chosen = options(types, per_channel=per_channel)
    made = quantized_nets.static(
        quantized_nets.conv_net(), tmp_path, quant_format=QUANTIZER.QuantFormat.QOperator, **chosen
    )
    kinds = {item.op_type for item in made.graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearConcat", "QLinearAveragePool", "QGemm"} <= kinds
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    assert_within_a_quantum(run(imported(made, tmp_path), feeds), onnx_runtime(made, feeds))


@pytest.mark.parametrize(
    ("types", "per_channel"),
    [
        ("U8S8", False),
        pytest.param("U8U8", True, marks=pytest.mark.slow),
        pytest.param("S8S8", True, marks=pytest.mark.slow),
    ],
)
def test_conv_net_between_quantize_and_dequantize(
    tmp_path: Path, types: str, per_channel: bool
) -> None:
    chosen = options(types, per_channel=per_channel)
    made = quantized_nets.static(quantized_nets.conv_net(), tmp_path, **chosen)
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    assert_within_a_quantum(run(imported(made, tmp_path), feeds), onnx_runtime(made, feeds))


def test_transformer_between_quantize_and_dequantize(tmp_path: Path) -> None:
    """Judged by ONNX Runtime without its integer kernels, which the 21 quantizations in a row here
    lead up to 3 quanta away from the file's own operators, too.
    """
    chosen = options("U8S8", per_channel=True)
    made = quantized_nets.static(quantized_nets.transformer(), tmp_path, **chosen)
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    expected = onnx_runtime(made, feeds, fused=False)
    assert_within_a_quantum(run(imported(made, tmp_path), feeds), expected)


def test_transformer_of_quantized_operators(tmp_path: Path) -> None:
    """Its last operator is a float one: equal but for the rounding of float32."""
    chosen = options("U8S8", per_channel=True)
    made = quantized_nets.static(
        quantized_nets.transformer(),
        tmp_path,
        quant_format=QUANTIZER.QuantFormat.QOperator,
        **chosen,
    )
    assert "QLinearSoftmax" in {item.op_type for item in made.graph.node}
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    (actual,), (expected,) = run(imported(made, tmp_path), feeds), onnx_runtime(made, feeds)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize(
    ("net", "weight", "per_channel"),
    [
        ("conv_net", "QInt8", True),
        pytest.param("conv_net", "QUInt8", False, marks=pytest.mark.slow),
        ("transformer", "QUInt8", True),
        pytest.param("transformer", "QInt8", False, marks=pytest.mark.slow),
    ],
)
def test_dynamically_quantized_net(
    tmp_path: Path, net: str, weight: str, per_channel: bool
) -> None:
    """Products are exact and ranges are the data's own: float32 rounding is all that is left."""
    made = quantized_nets.dynamic(
        quantized_nets.NETS[net](),
        tmp_path,
        weight_type=QUANTIZER.QuantType[weight],
        per_channel=per_channel,
        reduce_range=True,
    )
    feeds = quantized_nets.samples(made, 1, seed=9)[0]
    result = imported(made, tmp_path)
    for actual, expected in zip(run(result, feeds), onnx_runtime(made, feeds), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.ptp(expected))


def test_weights_stay_in_8_bits(tmp_path: Path) -> None:
    chosen = options("U8S8", per_channel=True)
    made = quantized_nets.static(
        quantized_nets.conv_net(), tmp_path, quant_format=QUANTIZER.QuantFormat.QOperator, **chosen
    )
    calls = list(quantized_ops(imported(made, tmp_path)))
    weights = [call for call in calls if not hasattr(call.args[0], "name") and call.args[0].ty.ndim]
    assert {str(call.args[0].ty.dtype) for call in weights} == {"int8", "int32"}
    for call in calls:
        assert call.args[1].ty.ndim <= 1  # the scales: one, or one for each channel


def test_weight_that_the_file_quantizes_is_stored_in_8_bits(tmp_path: Path) -> None:
    """NNCF writes weights in float32, and a `QuantizeLinear` after them."""
    proto = model(
        [
            node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
            node("DequantizeLinear", ["q", "s", "z"], ["v"], axis=0),
            node("MatMul", ["v", "x"], ["y"]),
        ],
        [value("x", [8, 3])],
        [value("y", [5, 3])],
        {
            "w": RNG.standard_normal((5, 8)).astype(np.float32),
            "s": (RNG.random(5) / 50 + 0.01).astype(np.float32),
            "z": np.zeros(5, np.int8),
        },
    )
    result = imported(proto, tmp_path)
    (call,) = quantized_ops(result)
    assert str(call.args[0].ty.dtype) == "int8"
    feeds = {"x": RNG.standard_normal((8, 3)).astype(np.float32)}
    (actual,), (expected,) = run(result, feeds), onnx_runtime(proto, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def bytes_of(dtype: str, *shape: int) -> np.ndarray:
    low = -100 if dtype == "int8" else 0
    return RNG.integers(low, low + 200, shape).astype(dtype)


def scale(size: float) -> np.ndarray:
    return np.array(size, np.float32)


def test_matmuls_that_quantize_or_end_in_floats(tmp_path: Path) -> None:
    proto = model(
        [
            node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "bias"], ["y0"]),
            node("DynamicQuantizeMatMul", ["x", "w", "ws"], ["y1"]),
            node("MatMulIntegerToFloat", ["a", "w", "s", "ws", "az", "wz", "bias"], ["y2"]),
            node("MatMulIntegerToFloat", ["a", "w", "s", "s"], ["y3"]),
            node("QGemm", ["a", "s", "az", "v", "vs", "vz", "c", "t", "tz"], ["y4"], transB=1),
            node("QGemm", ["b", "s", "az", "w", "s", "z"], ["y5"], alpha=0.5, transA=1),
        ],
        [value("x", [2, 3, 8]), value("a", [3, 8], "uint8"), value("b", [8, 3], "uint8")],
        [
            *[value(f"y{index}", [2, 3, 5]) for index in (0, 1)],
            *[value(f"y{index}", [3, 5]) for index in (2, 3)],
            value("y4", [3, 5], "uint8"),
            value("y5", [3, 5]),
        ],
        {
            "w": bytes_of("int8", 8, 5) // 2,
            "ws": RNG.random(5).astype(np.float32),
            "wz": bytes_of("int8", 5) // 4,
            "v": bytes_of("int8", 5, 8) // 2,
            "vs": RNG.random(5).astype(np.float32),
            "vz": np.zeros(5, np.int8),
            "z": np.array(3, np.int8),
            "s": scale(0.02),
            "az": np.array(120, np.uint8),
            "bias": RNG.standard_normal(5).astype(np.float32),
            "c": RNG.integers(-999, 999, 5).astype(np.int32),
            "t": scale(0.3),
            "tz": np.array(100, np.uint8),
        },
        domains=["com.microsoft"],
    )
    for item in proto.graph.node:
        item.domain = "com.microsoft"
    feeds = {
        "x": RNG.standard_normal((2, 3, 8)).astype(np.float32),
        "a": bytes_of("uint8", 3, 8),
        "b": bytes_of("uint8", 8, 3),
    }
    results = zip(run(imported(proto, tmp_path), feeds), onnx_runtime(proto, feeds), strict=True)
    for actual, expected in results:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_elementwise_operators_of_com_microsoft(tmp_path: Path) -> None:
    x, z = ["x", "s", "z"], ["t", "z"]
    proto = model(
        [
            node("QLinearSoftmax", [*x, "p", "z0"], ["y0"], opset=11, axis=1),
            node("QLinearSoftmax", [*x, "p", "z0"], ["y1"], opset=13, axis=1),
            node("QLinearWhere", ["on", *x, *x, *z], ["y2"]),
            node("QLinearMul", [*x, "r", "s", "z", *z], ["y3"]),
            node("QLinearConcat", [*z, *x, "x", "t", "z"], ["y4"], axis=2),
            node("QLinearLeakyRelu", [*x, *z], ["y5"], alpha=0.3),
            node("DequantizeLinear", ["x", "rs", "rz"], ["y6"], axis=1),
        ],
        [value("x", [2, 3, 4], "uint8"), value("on", [2, 3, 4], "bool")],
        [
            *[value(f"y{index}", [2, 3, 4], "uint8") for index in range(4)],
            value("y4", [2, 3, 8], "uint8"),
            value("y5", [2, 3, 4], "uint8"),
            value("y6", [2, 3, 4]),
        ],
        {
            "r": bytes_of("uint8", 3, 1),
            "rs": RNG.random(3).astype(np.float32),
            "rz": bytes_of("uint8", 3),
            "s": scale(0.02),
            "t": scale(0.033),
            "p": scale(1 / 256),
            "z": np.array(120, np.uint8),
            "z0": np.array(0, np.uint8),
        },
        domains=["com.microsoft"],
    )
    for item in proto.graph.node:
        item.domain = "com.microsoft"
    feeds = {"x": bytes_of("uint8", 2, 3, 4), "on": RNG.random((2, 3, 4)) > 0.5}
    results = zip(run(imported(proto, tmp_path), feeds), onnx_runtime(proto, feeds), strict=True)
    for actual, expected in results:
        np.testing.assert_allclose(actual.astype(float), expected.astype(float), atol=1)


def integer_convolution(x: np.ndarray, w: np.ndarray, zw: np.ndarray, groups: int) -> np.ndarray:
    """A 3 x 3 convolution of `x`, whose zero point is taken off, without padding."""
    rows, columns = x.shape[2] - 2, x.shape[3] - 2
    per_group = w.shape[0] // groups
    weights = w.astype(int) - zw.astype(int).reshape(-1, 1, 1, 1)
    result = np.zeros((x.shape[0], w.shape[0], rows, columns), int)
    for channel in range(w.shape[0]):
        first = channel // per_group * w.shape[1]
        for i in range(rows):
            for j in range(columns):
                window = x[:, first : first + w.shape[1], i : i + 3, j : j + 3]
                result[:, channel, i, j] = (window * weights[channel]).sum((1, 2, 3))
    return result


@pytest.mark.parametrize("computed", [False, True])
def test_integer_convolution_is_exact(tmp_path: Path, computed: bool) -> None:
    """With zero points per output channel, groups, and padding that counts as zero."""
    w, zw = bytes_of("int8", 6, 2, 3, 3), bytes_of("int8", 6)
    zx = np.array(77, np.uint8)
    inputs = [value("x", [1, 4, 5, 5], "uint8")]
    constants = {"w": w, "zw": zw, "zx": zx}
    feeds = {"x": bytes_of("uint8", 1, 4, 5, 5)}
    if computed:
        inputs.append(value("zx", [], "uint8"))
        del constants["zx"]
        feeds["zx"] = zx
    conv = node("ConvInteger", ["x", "w", "zx", "zw"], ["y"], group=2, pads=[1, 0, 1, 2])
    proto = model([conv], inputs, [value("y", [1, 6, 5, 5], "int32")], constants)
    (actual,) = run(imported(proto, tmp_path), feeds)
    centered = feeds["x"].astype(int) - 77
    padded = np.pad(centered, [(0, 0), (0, 0), (1, 1), (0, 2)])
    np.testing.assert_array_equal(actual, integer_convolution(padded, w, zw, 2))


@pytest.mark.parametrize(("rows", "columns"), [((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,))])
def test_integer_product_is_exact(
    tmp_path: Path, rows: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    proto = model(
        [node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])],
        [value("a", rows, "uint8"), value("b", columns, "int8")],
        [value("y", None, "int32")],
        {"za": np.array([200], np.uint8), "zb": np.array(-100, np.int8)},
    )
    feeds = {"a": bytes_of("uint8", *rows), "b": bytes_of("int8", *columns)}
    (actual,) = run(imported(proto, tmp_path), feeds)
    expected = (feeds["a"].astype(int) - 200) @ (feeds["b"].astype(int) + 100)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("zero_point", [0, 60, 200], ids=["none", "fits", "moved"])
@pytest.mark.parametrize("per_column", [False, True])
def test_uint8_weight_becomes_int8(tmp_path: Path, zero_point: int, *, per_column: bool) -> None:
    zeros = np.full(5 if per_column else (), zero_point, np.uint8)
    proto = model(
        [node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])],
        [value("a", [3, 4], "uint8"), value("za", [], "uint8")],
        [value("y", [3, 5], "int32")],
        {"b": bytes_of("uint8", 4, 5) // (2 if zero_point == 60 else 1), "zb": zeros},
    )
    feeds = {"a": bytes_of("uint8", 3, 4), "za": np.array(130, np.uint8)}
    source = imported(proto, tmp_path)
    weights = 'R.Tensor((4, 5), dtype="uint8")'
    assert weights not in source.module["main"].script()
    (actual,) = run(source, feeds)
    np.testing.assert_array_equal(actual, onnx_runtime(proto, feeds)[0])


def test_integer_product_reads_the_operands_as_stored(tmp_path: Path) -> None:
    proto = model(
        [node("MatMulInteger", ["a", "b", "za"], ["y"])],
        [value("a", [3, 4], "uint8")],
        [value("y", [3, 5], "int32")],
        {"b": bytes_of("int8", 4, 5), "za": np.array(3, np.uint8)},
    )
    text = imported(proto, tmp_path).module["main"].script()
    assert re.search(r"R\.matmul\(a, .*out_dtype=\"int32\"", text)
    assert "astype" not in text


def test_constant_data_is_quantized_with_the_scale_1(tmp_path: Path) -> None:
    proto = model(
        [node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])],
        [value("x", [4])],
        [value("y", [4], "uint8"), value("s", [], "float32"), value("z", [], "uint8")],
    )
    feeds = {"x": np.zeros(4, np.float32)}
    results = zip(run(imported(proto, tmp_path), feeds), onnx_runtime(proto, feeds), strict=True)
    for actual, expected in results:
        np.testing.assert_array_equal(actual, expected)


def test_result_without_zero_point_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("QLinearSigmoid", ["x", "s", "z", "s"], ["y"], name="sig", domain="com.microsoft")],
        [value("x", [4], "int8")],
        [value("y", [4], "int8")],
        {"s": scale(0.1), "z": np.array(0, np.int8)},
        domains=["com.microsoft"],
    )
    with pytest.raises(ModelError, match=r"node 'sig' .*zero point of its result"):
        imported(proto, tmp_path)


def test_channels_last_is_refused(tmp_path: Path) -> None:
    pool = node(
        "QLinearGlobalAveragePool",
        ["x", "s", "z", "s", "z"],
        ["y"],
        name="pool",
        domain="com.microsoft",
        channels_last=1,
    )
    proto = model(
        [pool],
        [value("x", [1, 4, 4, 3], "int8")],
        [value("y", [1, 1, 1, 3], "int8")],
        {"s": scale(0.1), "z": np.array(0, np.int8)},
        domains=["com.microsoft"],
    )
    with pytest.raises(ModelError, match=r"node 'pool' .*channels_last"):
        imported(proto, tmp_path)


def test_blocked_quantization_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("DequantizeLinear", ["x", "s"], ["y"], name="dq", block_size=2, axis=0)],
        [value("x", [4, 2], "int8")],
        [value("y", [4, 2])],
        {"s": np.ones((2, 2), np.float32)},
        opset=21,
    )
    with pytest.raises(ModelError, match=r"node 'dq' .*block_size"):
        imported(proto, tmp_path)


def test_onnx_node_tests_of_quantized_operators() -> None:
    chosen = [
        case
        for case in cases(["node"])
        if re.search(r"qlinear|quantize|convinteger|matmulinteger", case.name)
        and "blocked" not in case.name
    ]
    assert len(chosen) > 20
    outcomes = {
        name: detail for name, (kind, detail) in run_cases(chosen).items() if kind != "pass"
    }
    assert not outcomes
