"""Small nets with random weights, and what ONNX Runtime's quantizer makes of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from small_onnx import model, node, value

SAMPLES = 4


class _Samples(CalibrationDataReader):
    def __init__(self, samples: list[dict[str, np.ndarray]]) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def samples(proto: onnx.ModelProto, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Normally distributed inputs."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, np.ndarray]] = []
    for _ in range(count):
        shapes = {
            item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
            for item in proto.graph.input
        }
        found.append({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    return found


def static(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """The model quantized by `quantize_static`."""
    onnx.save(proto, folder / "float.onnx")
    reader = _Samples(samples(proto, SAMPLES, seed=1))
    quantize_static(folder / "float.onnx", folder / "static.onnx", reader, **options)
    return onnx.load(folder / "static.onnx")


def dynamic(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """The model quantized by `quantize_dynamic`."""
    onnx.save(proto, folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", **options)
    return onnx.load(folder / "dynamic.onnx")


def conv_net() -> onnx.ModelProto:
    """A residual block, a depthwise one, two pools and a concatenation, then a classifier."""
    weights = {
        "w1": _weight(16, 3, 3, 3),
        "b1": _weight(16),
        "w2": _weight(16, 16, 3, 3),
        "b2": _weight(16),
        "w3": _weight(16, 1, 3, 3),
        "b3": _weight(16),
        "w4": _weight(8, 16, 1, 1),
        "w5": _weight(10, 40),
        "b5": _weight(10),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    nodes = [
        _named("Conv", ["x", "w1", "b1"], "c1", pads=[1, 1, 1, 1]),
        _named("Relu", ["c1"], "r1"),
        _named("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        _named("Conv", ["p1", "w2", "b2"], "c2", pads=[1, 1, 1, 1]),
        _named("Add", ["p1", "c2"], "a2"),
        _named("LeakyRelu", ["a2"], "r2", alpha=0.1),
        _named("Conv", ["r2", "w3", "b3"], "c3", pads=[1, 1, 1, 1], group=16),
        _named("Clip", ["c3", "low", "high"], "r3"),
        _named("Conv", ["r3", "w4"], "c4"),
        _named("Sigmoid", ["c4"], "s4"),
        _named("Mul", ["c4", "s4"], "m4"),
        _named("Concat", ["r2", "r3", "m4"], "all", axis=1),
        _named("AveragePool", ["all"], "p4", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        _named("GlobalAveragePool", ["p4"], "g4"),
        _named("Flatten", ["g4"], "f4"),
        _named("Gemm", ["f4", "w5", "b5"], "logits", transB=1),
        _named("Softmax", ["logits"], "y", axis=-1),
    ]
    return model(
        nodes,
        [value("x", [1, 3, 16, 16])],
        [value("y", [1, 10]), value("p4", [1, 40, 8, 8])],
        weights,
        opset=17,
    )


def up_net() -> onnx.ModelProto:
    """Down and up again: squeeze-and-excite, a transposed convolution, both ways to resize."""
    weights = {
        "w1": _weight(16, 3, 3, 3),
        "b1": _weight(16),
        "w2": _weight(8, 16, 1, 1),
        "w3": _weight(16, 8, 1, 1),
        "w4": _weight(16, 8, 2, 2),
        "b4": _weight(8),
        "w5": _weight(8, 16, 3, 3),
        "w6": _weight(8, 32, 1, 1),
        "double": np.array([1, 1, 2, 2], np.float32),
        "parts": np.array([8, 8], np.int64),
    }
    nodes = [
        _named("Conv", ["x", "w1", "b1"], "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
        _named("HardSwish", ["c1"], "h1"),
        _named("GlobalAveragePool", ["h1"], "g1"),
        _named("Conv", ["g1", "w2"], "c2"),
        _named("Relu", ["c2"], "r2"),
        _named("Conv", ["r2", "w3"], "c3"),
        _named("HardSigmoid", ["c3"], "gate", alpha=1 / 6),
        _named("Mul", ["h1", "gate"], "m1"),
        _named("ConvTranspose", ["m1", "w4", "b4"], "t4", strides=[2, 2]),
        _named("Conv", ["m1", "w5"], "c5", pads=[1, 1, 1, 1]),
        _named(
            "Resize",
            ["c5", "", "double"],
            "near",
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        _named("Resize", ["c5", "", "double"], "smooth", mode="linear"),
        onnx.helper.make_node("Split", ["m1", "parts"], ["s1", "s2"], name="Split/s1", axis=1),
        _named("Sub", ["s1", "s2"], "d1"),
        _named("Resize", ["d1", "", "double"], "wide", mode="nearest"),
        _named("Concat", ["t4", "near", "smooth", "wide"], "all", axis=1),
        _named("Conv", ["all", "w6"], "y"),
    ]
    shape = [1, 8, 16, 16]
    return model(nodes, [value("x", [1, 3, 16, 16])], [value("y", shape)], weights, opset=17)


def transformer() -> onnx.ModelProto:
    """One encoder block: attention of two heads and a feed-forward net, each with a residual."""
    width, tokens = 32, 16
    weights = {f"w{name}": _weight(width, width) for name in "qkvo"}
    weights |= {f"b{name}": _weight(width) for name in "qkvo"}
    weights |= {
        "w1": _weight(width, 64),
        "b1": _weight(64),
        "w2": _weight(64, width),
        "b2": _weight(width),
        "scale1": 1 + _weight(width),
        "scale2": 1 + _weight(width),
        "heads": np.array([1, tokens, 2, width // 2], np.int64),
        "whole": np.array([1, tokens, width], np.int64),
        "root": np.array(4, np.float32),
        "sqrt2": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes: list[onnx.NodeProto] = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            *_dense("x", name),
            _named("Reshape", [name, "heads"], f"{name}_heads"),
            _named("Transpose", [f"{name}_heads"], f"{name}_last", perm=order),
        ]
    nodes += [
        _named("MatMul", ["q_last", "k_last"], "products"),
        _named("Div", ["products", "root"], "scores"),
        _named("Softmax", ["scores"], "shares", axis=-1),
        _named("MatMul", ["shares", "v_last"], "mixed"),
        _named("Transpose", ["mixed"], "mixed_heads", perm=[0, 2, 1, 3]),
        _named("Reshape", ["mixed_heads", "whole"], "joined"),
        *_dense("joined", "o"),
        _named("Add", ["x", "o"], "sum1"),
        _named("LayerNormalization", ["sum1", "scale1"], "n1"),
        *_dense("n1", "1"),
        _named("Div", ["1", "sqrt2"], "e1"),
        _named("Erf", ["e1"], "e2"),
        _named("Add", ["e2", "one"], "e3"),
        _named("Mul", ["1", "e3"], "e4"),
        _named("Mul", ["e4", "half"], "gelu"),
        *_dense("gelu", "2"),
        _named("Add", ["n1", "2"], "sum2"),
        _named("LayerNormalization", ["sum2", "scale2"], "y"),
    ]
    shape = [1, tokens, width]
    return model(nodes, [value("x", shape)], [value("y", shape)], weights, opset=17)


NETS: Mapping[str, Any] = {"conv_net": conv_net, "transformer": transformer, "up_net": up_net}


def _dense(source: str, name: str) -> list[onnx.NodeProto]:
    product = _named("MatMul", [source, f"w{name}"], f"{name}_product")
    return [product, _named("Add", [f"{name}_product", f"b{name}"], name)]


def _named(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return node(kind, inputs, [output], name=f"{kind}/{output}", **attributes)


def _weight(*shape: int) -> np.ndarray:
    """Random values of which a product with normally distributed ones has about their size."""
    rng = np.random.default_rng(sum(shape))
    fan_in = int(np.prod(shape[1:], dtype=int)) if len(shape) != 2 else min(shape)
    return (rng.standard_normal(shape) / fan_in**0.5 * 0.8).astype(np.float32)
