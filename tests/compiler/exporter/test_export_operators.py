"""Each operator is written so that ONNX Runtime computes what it did in the original."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_onnx import model, node, value

pytest.importorskip("onnxruntime")

from round_trip import assert_same, exported

from tvmopt import ModelError, UsageError
from tvmopt.compiler.exporter import save_model

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


IMAGE = [2, 4, 6, 6]

CASES: dict[str, tuple[list[Any], list[int], dict[str, np.ndarray]]] = {
    "conv": (
        [node("Conv", ["x", "w", "b"], ["y"], pads=[1, 0, 2, 1], strides=[2, 1], group=2)],
        IMAGE,
        {"w": floats(6, 2, 3, 3), "b": floats(6)},
    ),
    "conv without bias": (
        [node("Conv", ["x", "w"], ["y"], dilations=[2, 2])],
        IMAGE,
        {"w": floats(6, 4, 3, 3)},
    ),
    "conv1d": (
        [node("Conv", ["x", "w", "b"], ["y"], pads=[2, 1])],
        [2, 4, 9],
        {"w": floats(3, 4, 3), "b": floats(3)},
    ),
    "conv transpose": (
        [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], output_padding=[1, 1])],
        IMAGE,
        {"w": floats(4, 3, 3, 3), "b": floats(3)},
    ),
    "conv + skip": (
        [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "x"], ["y"])],
        IMAGE,
        {"w": floats(4, 4, 1, 1)},
    ),
    "pools": (
        [
            node("MaxPool", ["x"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
            node("AveragePool", ["a"], ["y"], kernel_shape=[2, 3], pads=[0, 1, 0, 1]),
        ],
        IMAGE,
        {},
    ),
    "global pools": (
        [
            node("GlobalAveragePool", ["x"], ["a"]),
            node("ReduceMax", ["x"], ["b"], axes=[1], keepdims=0),
            node("ReduceSum", ["x", "axes"], ["c"], keepdims=1),
            node("ReduceMean", ["x"], ["d"], axes=[3]),
            node("Sum", ["a", "c", "d"], ["e"]),
            node("ReduceMin", ["b"], ["f"], axes=[0, 1, 2]),
            node("Mul", ["e", "f"], ["y"]),
        ],
        IMAGE,
        {"axes": ints(-1)},
    ),
    "gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        [3, 8],
        {"w": floats(5, 8), "b": floats(5)},
    ),
    "matmuls": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Add", ["b", "a"], ["c"]),
            node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
            node("MatMul", ["c", "d"], ["e"]),
            node("Softmax", ["e"], ["f"], axis=1),
            node("LogSoftmax", ["f"], ["y"]),
        ],
        [2, 3, 8],
        {"w": floats(8, 5), "b": floats(5)},
    ),
    "normalization": (
        [
            node("LayerNormalization", ["x", "s", "b"], ["a"], epsilon=1e-3),
            node("LayerNormalization", ["a", "s2"], ["y"], axis=2),
        ],
        [2, 3, 4, 5],
        {"s": floats(5), "b": floats(5), "s2": floats(4, 5)},
    ),
    "activations": (
        [
            node("Relu", ["x"], ["a"]),
            node("LeakyRelu", ["x"], ["b"], alpha=0.3),
            node("Sigmoid", ["b"], ["c"]),
            node("Mul", ["b", "c"], ["d"]),
            node("HardSwish", ["d"], ["e"]),
            node("Div", ["e", "root"], ["f"]),
            node("Erf", ["f"], ["g"]),
            node("Add", ["g", "one"], ["h"]),
            node("Mul", ["e", "h"], ["i"]),
            node("Mul", ["i", "half"], ["j"]),
            node("Clip", ["j", "half", "one"], ["k"]),
            node("Tanh", ["k"], ["l"]),
            node("Sum", ["a", "l", "d"], ["y"]),
        ],
        IMAGE,
        {"root": floats() * 0 + 2**0.5, "one": floats() * 0 + 1, "half": floats() * 0 + 0.5},
    ),
    "movement": (
        [
            node("Split", ["x", "sizes"], ["a", "b"], axis=1),
            node("Concat", ["b", "a"], ["c"], axis=1),
            node("Slice", ["c", "starts", "ends", "axes", "steps"], ["d"]),
            node("Pad", ["d", "pads", "fill"], ["e"]),
            node("Gather", ["e", "rows"], ["f"], axis=2),
            node("Unsqueeze", ["f", "axes"], ["g"]),
            node("Tile", ["g", "counts"], ["h"]),
            node("Flatten", ["h"], ["y"]),
        ],
        IMAGE,
        {
            "sizes": ints(1, 3),
            "starts": ints(1),
            "ends": ints(6),
            "axes": ints(3),
            "steps": ints(2),
            "pads": ints(0, 0, 1, 2, 0, 0, 0, 1),
            "fill": floats(),
            "rows": ints(4, 0, 0, 6),
            "counts": ints(1, 2, 1, 1, 3),
        },
    ),
    "choices": (
        [
            node("Greater", ["x", "zero"], ["a"]),
            node("Equal", ["x", "x"], ["b"]),
            node("Not", ["a"], ["c"]),
            node("Or", ["c", "a"], ["d"]),
            node("And", ["d", "b"], ["e"]),
            node("Where", ["a", "x", "zero"], ["f"]),
            node("Cast", ["e"], ["g"], to=onnx.TensorProto.FLOAT),
            node("ArgMax", ["f"], ["h"], axis=1),
            node("Cast", ["h"], ["i"], to=onnx.TensorProto.FLOAT),
            node("Sum", ["f", "g", "i"], ["y"]),
        ],
        IMAGE,
        {"zero": floats() * 0},
    ),
    "nearest": (
        [node("Resize", ["x", "", "scales"], ["y"], coordinate_transformation_mode="asymmetric")],
        IMAGE,
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "bilinear": (
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        IMAGE,
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "cubic": (
        [node("Resize", ["x", "", "scales"], ["y"], mode="cubic", cubic_coeff_a=-0.5)],
        IMAGE,
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "lstm": (
        [node("LSTM", ["x", "w", "r", "b", "", "", "c", "p"], ["y"], hidden_size=3, clip=2.0)],
        [5, 2, 4],
        {
            "w": floats(1, 12, 4),
            "r": floats(1, 12, 3),
            "b": floats(1, 24),
            "c": floats(1, 2, 3),
            "p": floats(1, 9),
        },
    ),
    "gru": (
        [
            node(
                "GRU",
                ["x", "w", "r", "b"],
                ["y"],
                hidden_size=3,
                direction="bidirectional",
                linear_before_reset=1,
                activations=["HardSigmoid", "Tanh", "Sigmoid", "Relu"],
                activation_alpha=[0.3],
                activation_beta=[0.4],
            )
        ],
        [5, 2, 4],
        {"w": floats(2, 9, 4), "r": floats(2, 9, 3), "b": floats(2, 18)},
    ),
}


def written(
    folder: Path, nodes: list[Any], shape: list[int], constants: dict[str, np.ndarray]
) -> tuple[Path, onnx.ModelProto]:
    made = model(nodes, [value("x", shape)], [value("y", None)], constants, opset=17)
    path = folder / "model.onnx"
    onnx.save(made, path)
    return path, made


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("case", CASES)
def test_operators_make_the_round_trip(case: str, opset: int, tmp_path: Path) -> None:
    nodes, shape, constants = CASES[case]
    path, original = written(tmp_path, nodes, shape, constants)
    assert_same(exported(path, opset), original, {"x": floats(*shape)})


def test_nodes_are_called_like_the_original_ones(tmp_path: Path) -> None:
    path, _ = written(
        tmp_path,
        [
            node("Conv", ["x", "w", "b"], ["c"], name="stem/conv"),
            node("Relu", ["c"], ["r"], name="stem/relu"),
            node("GlobalAveragePool", ["r"], ["y"], name="pool"),
        ],
        IMAGE,
        {"w": floats(6, 4, 3, 3), "b": floats(6)},
    )
    nodes = [(item.op_type, item.name) for item in exported(path).graph.node]
    assert nodes == [
        ("Conv", "stem/conv"),
        ("Relu", "stem/relu"),
        ("GlobalAveragePool", "pool"),
    ]


def test_outputs_that_are_inputs_or_constants_or_twice_there(tmp_path: Path) -> None:
    made = model(
        [
            node("Relu", ["x"], ["y"]),
            node("Identity", ["y"], ["z"]),
            node("Identity", ["x"], ["v"]),
        ],
        [value("x", [3])],
        [value(name, [3]) for name in ("y", "z", "v", "c")],
        {"c": floats(3)},
    )
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    assert_same(exported(path), made, {"x": floats(3)})


def test_constants_keep_their_type_and_are_shared(tmp_path: Path) -> None:
    table = RNG.integers(-100, 100, (50, 4)).astype(np.int8)
    made = model(
        [
            node("Add", ["x", "one"], ["next"]),
            node("Gather", ["table", "x"], ["a"]),
            node("Gather", ["table", "next"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        [value("x", [3], "int64")],
        [value("y", [3, 4], "int8")],
        {"table": table, "one": ints(1)},
    )
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    tables = [item for item in exported(path).graph.initializer if list(item.dims) == [50, 4]]
    assert [item.data_type for item in tables] == [onnx.TensorProto.INT8]


def test_operator_that_onnx_lacks_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = written(
        tmp_path, [node("CumSum", ["x", "axis"], ["y"], name="sum")], [3], {"axis": ints(0)}
    )
    with pytest.raises(ModelError, match=r"node 'sum' \(relax\.cumsum\) cannot be written"):
        exported(path)


def test_unknown_operator_set_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, [node("Relu", ["x"], ["y"])], [3], {})
    with pytest.raises(UsageError, match="17 to 21"):
        exported(path, 16)


def test_weights_beyond_the_limit_go_beside_the_file(tmp_path: Path) -> None:
    weight = floats(64, 64)
    path, original = written(tmp_path, [node("MatMul", ["x", "w"], ["y"])], [2, 64], {"w": weight})
    made = exported(path)
    target = tmp_path / "out" / "big.onnx"
    target.parent.mkdir()
    save_model(made, target, limit=1)
    assert target.stat().st_size < weight.nbytes
    assert sorted(item.name for item in target.parent.iterdir()) == ["big.onnx", "big.onnx.data"]
    feeds = {"x": floats(2, 64)}
    assert_same(onnx.load(target), original, feeds)
    assert_same(made, original, feeds)  # what was saved can still be used
