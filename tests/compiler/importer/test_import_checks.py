"""What cannot be imported correctly is refused before anything is computed, naming the nodes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from small_onnx import assert_like_reference, imported, model, node, run, value

from tvmopt import ModelError


def relu(domain: str = "", opset: int = 20, **kwargs: object) -> onnx.ModelProto:
    return model(
        [node("Relu", ["x"], ["y"], name="act", domain=domain)],
        [value("x", [2])],
        [value("y", [2])],
        opset=opset,
        **kwargs,  # pyright: ignore[reportArgumentType]
    )


def test_custom_domain_is_not_taken_for_the_standard_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"my\.ops::Relu \(node 'act'\)"):
        imported(relu("my.ops", domains=["my.ops"]), tmp_path)


def test_too_new_opset_names_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"operator set 99; operator sets 6 to \d+ are supported"):
        imported(relu(opset=99), tmp_path)


def test_too_old_opset_is_told_of_the_converter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="operator set 5;") as caught:
        imported(relu(opset=5), tmp_path)
    assert "version_converter" in (caught.value.hint or "")


def test_unknown_operators_are_listed_with_their_nodes(tmp_path: Path) -> None:
    proto = model(
        [node("Relo", ["x"], ["a"], name="first"), node("Foo", ["a"], ["y"], name="second")],
        [value("x", [2])],
        [value("y", [2])],
    )
    with pytest.raises(ModelError, match=r"Foo \(node 'second'\); Relo \(node 'first'\)"):
        imported(proto, tmp_path)


def test_unknown_operator_inside_a_branch_is_found(tmp_path: Path) -> None:
    branches = [
        helper.make_graph([node(op, ["x"], ["z"], name=op.lower())], op, [], [value("z", [2])])
        for op in ("Relu", "Nonsense")
    ]
    choice = node(
        "If", ["c"], ["y"], name="choice", then_branch=branches[0], else_branch=branches[1]
    )
    proto = model([choice], [value("c", [], "bool"), value("x", [2])], [value("y", [2])])
    with pytest.raises(ModelError, match=r"Nonsense .*'choice/nonsense'"):
        imported(proto, tmp_path)


def test_data_dependent_shape_is_refused_with_the_reason(tmp_path: Path) -> None:
    proto = model(
        [node("NonZero", ["x"], ["y"], name="where")],
        [value("x", [4])],
        [value("y", [1, None], "int64")],
    )
    with pytest.raises(ModelError, match=r"NonZero \(node 'where'\)") as caught:
        imported(proto, tmp_path)
    assert "depends on data" in (caught.value.hint or "")


def test_refused_operator_on_constants_is_folded_instead(tmp_path: Path) -> None:
    proto = model(
        [node("NonZero", ["k"], ["i"], name="where"), node("Add", ["x", "i"], ["y"])],
        [value("x", [1, 2], "int64")],
        [value("y", [1, 2], "int64")],
        {"k": np.array([0.0, 1, 2], np.float32)},
    )
    result = assert_like_reference(proto, tmp_path, {"x": np.zeros((1, 2), np.int64)})
    assert ("where", "folded into a constant") in [(r.op, r.message) for r in result.remarks]


def test_invalid_graph_is_told_by_the_checker(tmp_path: Path) -> None:
    proto = model([node("Relu", ["nothing"], ["y"])], [value("x", [2])], [value("y", [2])])
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*nothing"):
        imported(proto, tmp_path)


def test_contradicting_shapes_name_the_node(tmp_path: Path) -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"], name="product")],
        [value("x", [2, 3])],
        [value("y", None)],
        {"w": np.ones((4, 5), np.float32)},
    )
    with pytest.raises(ModelError, match="product"):
        imported(proto, tmp_path)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.STRING, onnx.TensorProto.FLOAT8E4M3FN])
def test_element_types_that_do_not_compile_are_refused(tmp_path: Path, dtype: int) -> None:
    proto = model(
        [node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", dtype, [2])],
        [helper.make_tensor_value_info("y", dtype, [2])],
    )
    with pytest.raises(ModelError, match="'x' h"):
        imported(proto, tmp_path)


def test_cast_to_an_8_bit_float_names_the_node(tmp_path: Path) -> None:
    proto = model(
        [
            node("Cast", ["x"], ["low"], name="narrow", to=onnx.TensorProto.FLOAT8E4M3FN),
            node("Cast", ["low"], ["y"], name="widen", to=onnx.TensorProto.FLOAT),
        ],
        [value("x", [2])],
        [value("y", [2])],
    )
    with pytest.raises(ModelError, match=r"node 'narrow' .*float8_e4m3fn"):
        imported(proto, tmp_path)


def test_sequence_input_is_no_tensor(tmp_path: Path) -> None:
    proto = relu()
    proto.graph.input[0].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    )
    with pytest.raises(ModelError, match="input 'x' is no tensor but a sequence"):
        imported(proto, tmp_path)


def test_converter_failures_name_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = model(
        [node("RoiAlign", ["x", "r", "i"], ["y"], name="roi", mode="max")],
        [value("x", [1, 1, 4, 4]), value("r", [1, 4]), value("i", [1], "int64")],
        [value("y", None)],
    )
    with pytest.raises(ModelError, match=r"node 'roi' \(RoiAlign\)"):
        imported(proto, tmp_path)
    assert capsys.readouterr().out == ""


def test_unnamed_nodes_are_called_by_their_operator_and_place(tmp_path: Path) -> None:
    proto = model(
        [node("Neg", ["x"], ["a"]), node("Abs", ["a"], ["y"])], [value("x", [2])], [value("y", [2])]
    )
    result = imported(proto, tmp_path)
    assert result.node_outputs == {"Neg_0": "a", "Abs_1": "y"}
    bindings = result.module["main"].body.blocks[0].bindings
    assert [binding.var.name for binding in bindings] == ["Neg_0", "Abs_1"]


def test_nodes_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    proto = model(
        [node("Neg", ["x"], ["a"], name="n"), node("Abs", ["a"], ["y"], name="n")],
        [value("x", [2])],
        [value("y", [2])],
    )
    assert list(imported(proto, tmp_path).node_outputs) == ["n", "n_2"]


def test_odd_graphs_keep_their_inputs_and_outputs(tmp_path: Path) -> None:
    """An output that is an input, a constant, or another output; an input that nobody uses."""
    proto = model(
        [node("Relu", ["x"], ["y"]), node("Identity", ["y"], ["same"])],
        [value("x", [2]), value("unused", [3], "int64")],
        [value(name, None) for name in ("y", "x", "k", "y", "same")],
        {"k": np.array([5.0], np.float32)},
    )
    result = imported(proto, tmp_path)
    feeds = {"x": np.array([-1, 1], np.float32), "unused": np.zeros(3, np.int64)}
    assert [spec.name for spec in result.inputs] == ["x", "unused"]
    assert [spec.name for spec in result.outputs] == ["y", "x", "k", "y", "same"]
    actual = [array.tolist() for array in run(result, feeds)]
    assert actual == [[0, 1], [-1, 1], [5], [0, 1], [0, 1]]


def test_initializer_listed_as_input_is_a_constant(tmp_path: Path) -> None:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", [2]), value("w", [2])],
        [value("y", [2])],
        {"w": np.array([1, 2], np.float32)},
        ir_version=3,
        opset=9,
    )
    result = imported(proto, tmp_path)
    assert [spec.name for spec in result.inputs] == ["x"]
    assert any("'w'" in remark.message for remark in result.remarks)
    np.testing.assert_array_equal(run(result, {"x": np.zeros(2, np.float32)})[0], [1, 2])


def test_original_is_the_files_own_graph(tmp_path: Path) -> None:
    proto = model(
        [node("Softsign", ["x"], ["a"]), node("Celu", ["a"], ["y"])],
        [value("x", ["n", 2])],
        [value("y", ["n", 2])],
    )
    original = imported(proto, tmp_path, {"n": 3}).original(["a"])
    assert [n.op_type for n in original.graph.node] == ["Softsign", "Celu"]
    assert [d.dim_value for d in original.graph.input[0].type.tensor_type.shape.dim] == [3, 2]
    assert [v.name for v in original.graph.output] == ["y", "a"]


def test_unused_domains_do_no_harm(tmp_path: Path) -> None:
    proto = relu(domains=["com.microsoft", "ai.onnx.ml", "my.ops"])
    assert_like_reference(proto, tmp_path, {"x": np.array([-1, 1], np.float32)})


def test_stray_metadata_and_empty_names_do_no_harm(tmp_path: Path) -> None:
    """Optional inputs and outputs left out by an empty name, and attributes with empty lists."""
    proto = model(
        [
            node("Clip", ["x", "", "high"], ["a"], name="clip"),
            node("Dropout", ["a"], ["b", ""], name="drop"),
            node("Squeeze", ["b", ""], ["y"], name="squeeze"),
        ],
        [value("x", [1, 3])],
        [value("y", [3])],
        {"high": np.array(1, np.float32)},
        opset=13,
    )
    helper.set_model_props(proto, {"author": "someone"})
    (actual,) = run(imported(proto, tmp_path), {"x": np.array([[-1, 0.5, 2]], np.float32)})
    np.testing.assert_array_equal(actual, np.array([-1, 0.5, 1], np.float32))
