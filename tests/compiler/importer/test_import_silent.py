"""What TVM's importer computes wrongly in silence is computed as ONNX says, or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, helper, numpy_helper
from small_onnx import assert_like_reference, imported, model, node, run, value

from tvmopt import ModelError

RNG = np.random.default_rng(0)


def assert_like_onnxruntime(proto: Any, folder: Path, feeds: dict[str, np.ndarray]) -> None:
    """Compares with ONNX Runtime where `onnx.reference` cannot do the operator."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for actual, wanted in zip(
        run(imported(proto, folder), feeds), session.run(None, feeds), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("negative", [0, 1])
def test_isinf_heeds_its_signs(tmp_path: Path, positive: int, negative: int) -> None:
    proto = model(
        [node("IsInf", ["x"], ["y"], detect_positive=positive, detect_negative=negative)],
        [value("x", [4])],
        [value("y", [4], "bool")],
    )
    feeds = {"x": np.array([np.inf, -np.inf, np.nan, 1], np.float32)}
    assert_like_reference(proto, tmp_path, feeds)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_layer_normalization_gives_mean_and_inverse_deviation(tmp_path: Path, axis: int) -> None:
    shape = [2, 3, 4]
    kept = [*shape[: axis % 3], *[1] * (3 - axis % 3)]
    proto = model(
        [node("LayerNormalization", ["x", "s"], ["y", "mean", "inv"], axis=axis)],
        [value("x", shape)],
        [value("y", shape), value("mean", kept), value("inv", kept)],
        {"s": floats(*shape[axis % 3 :])},
    )
    assert_like_reference(proto, tmp_path, {"x": floats(*shape)})


def test_dropout_mask_is_boolean(tmp_path: Path) -> None:
    proto = model(
        [node("Dropout", ["x"], ["y", "mask"])],
        [value("x", [3])],
        [value("y", [3]), value("mask", [3], "bool")],
    )
    y, mask = run(imported(proto, tmp_path), {"x": np.array([1, 2, 3], np.float32)})
    assert mask.dtype == bool
    assert mask.all()
    np.testing.assert_array_equal(y, [1, 2, 3])


def test_dropout_in_training_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("Dropout", ["x", "r", "t"], ["y"], name="drop")],
        [value("x", [3])],
        [value("y", [3])],
        {"r": np.array(0.5, np.float32), "t": np.array(True)},
    )
    with pytest.raises(ModelError, match=r"node 'drop' .*training mode"):
        imported(proto, tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "linear", "antialias": 1},
        {"mode": "cubic", "antialias": 1},
        {"mode": "linear"},
        {"mode": "cubic"},
        {"mode": "nearest"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
        {"mode": "cubic", "exclude_outside": 1},
        {"mode": "nearest", "nearest_mode": "ceil"},
    ],
)
@pytest.mark.parametrize("scales", [[1, 1, 0.6, 0.5], [1, 1, 2, 1.7], [1, 2, 1, 1]])
def test_resize_by_any_scale(
    tmp_path: Path, attributes: dict[str, Any], scales: list[float]
) -> None:
    if attributes.get("antialias") and scales[1] != 1:
        pytest.skip("the reference does not resize channels with antialiasing")
    proto = model(
        [node("Resize", ["x", "", "scales"], ["y"], **attributes)],
        [value("x", [1, 2, 6, 7])],
        [value("y", None)],
        {"scales": np.array(scales, np.float32)},
    )
    feeds = {"x": floats(1, 2, 6, 7)}
    if attributes.get("coordinate_transformation_mode") == "half_pixel_symmetric":
        assert_like_onnxruntime(proto, tmp_path, feeds)  # the reference rounds coordinates down
    else:
        # scales are float32, coordinates some tens: 1e-5 of a pixel
        assert_like_reference(proto, tmp_path, feeds, rtol=1e-4)


def test_resize_crops_by_its_region(tmp_path: Path) -> None:
    proto = model(
        [
            node(
                "Resize",
                ["x", "roi", "", "sizes"],
                ["y"],
                mode="linear",
                coordinate_transformation_mode="tf_crop_and_resize",
                extrapolation_value=10.0,
            )
        ],
        [value("x", [1, 1, 4, 4])],
        [value("y", [1, 1, 3, 3])],
        {
            "roi": np.array([0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7], np.float32),
            "sizes": np.array([1, 1, 3, 3], np.int64),
        },
    )
    assert_like_reference(proto, tmp_path, {"x": floats(1, 1, 4, 4)}, rtol=1e-4)


def test_non_max_suppression_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("NonMaxSuppression", ["b", "s", "m"], ["y"], name="nms")],
        [value("b", [1, 6, 4]), value("s", [1, 1, 6]), value("m", [1], "int64")],
        [value("y", [None, 3], "int64")],
    )
    with pytest.raises(ModelError, match=r"NonMaxSuppression \(node 'nms'\)"):
        imported(proto, tmp_path)


@pytest.mark.parametrize(
    ("op", "inputs"), [("Expand", ["x", "s"]), ("Reshape", ["x", "s"]), ("Tile", ["x", "s"])]
)
def test_shapes_computed_at_run_time_are_refused(
    tmp_path: Path, op: str, inputs: list[str]
) -> None:
    proto = model(
        [node(op, inputs, ["y"], name="change")],
        [value("x", [1, 2]), value("s", [2], "int64")],
        [value("y", None)],
    )
    with pytest.raises(ModelError, match=r"node 'change' .*input 1 \('s'\) must be a constant"):
        imported(proto, tmp_path)


@pytest.mark.parametrize("output_shape", [[7, 6], [8, 8], [5, 4]])
def test_transposed_convolution_has_the_shape_it_asks_for(
    tmp_path: Path, output_shape: list[int]
) -> None:
    proto = model(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=output_shape)],
        [value("x", [1, 2, 3, 3])],
        [value("y", [1, 3, *output_shape])],
        {"w": floats(2, 3, 3, 3)},
    )
    assert_like_onnxruntime(proto, tmp_path, {"x": floats(1, 2, 3, 3)})


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution_dilates_and_groups(
    tmp_path: Path, dilation: int, group: int
) -> None:
    proto = model(
        [
            node(
                "ConvTranspose", ["x", "w", "b"], ["y"],
                strides=[2, 1], dilations=[dilation] * 2, group=group, pads=[1, 0, 0, 1],
                output_padding=[1, 0],
            )
        ],
        [value("x", [1, 4, 5, 4])],
        [value("y", None)],
        {"w": floats(4, 3, 3, 2), "b": floats(3 * group)},
    )  # fmt: skip
    assert_like_onnxruntime(proto, tmp_path, {"x": floats(1, 4, 5, 4)})


def test_roi_align_by_maximum_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("RoiAlign", ["x", "r", "i"], ["y"], name="roi", mode="max")],
        [value("x", [1, 1, 4, 4]), value("r", [1, 4]), value("i", [1], "int64")],
        [value("y", None)],
    )
    with pytest.raises(ModelError, match=r"node 'roi' .*mode 'max'"):
        imported(proto, tmp_path)


def test_fully_masked_attention_row_is_zero(tmp_path: Path) -> None:
    proto = model(
        [node("Attention", ["q", "k", "v", "m"], ["y"], name="attend")],
        [value(name, [1, 2, 3, 4]) for name in "qkv"] + [value("m", [3, 3], "bool")],
        [value("y", [1, 2, 3, 4])],
        opset=23,
        ir_version=11,
    )
    mask = np.array([[True, False, False], [False, False, False], [True, True, True]])
    feeds = {"q": floats(1, 2, 3, 4), "k": floats(1, 2, 3, 4), "v": floats(1, 2, 3, 4), "m": mask}
    result = imported(proto, tmp_path)
    (actual,) = run(result, feeds)
    assert not np.isnan(actual).any()
    np.testing.assert_array_equal(actual[:, :, 1], 0)
    np.testing.assert_allclose(actual[:, :, 0], feeds["v"][:, :, 0], rtol=1e-6)
    names = {binding.var.name for binding in result.module["main"].body.blocks[0].bindings}
    assert names == {"attend"}


def test_maximum_of_minus_infinities_is_that(tmp_path: Path) -> None:
    proto = model(
        [node("ReduceMax", ["x", "a"], ["y"], keepdims=0)],
        [value("x", [2, 2])],
        [value("y", [2])],
        {"a": np.array([1])},
    )
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1]], np.float32)
    assert_like_reference(proto, tmp_path, {"x": x})


def test_local_function_is_not_taken_for_the_operator_of_its_name(tmp_path: Path) -> None:
    """`my.ops::Relu` multiplies by its attribute; a call inside a call keeps both names."""
    scale = helper.make_node("Constant", [], ["k"])
    scale.attribute.append(
        AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="factor")
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
    inner = helper.make_function(
        "my.ops", "Relu", ["a"], ["b"], [scale, node("Mul", ["a", "k"], ["b"], name="times")],
        imports, ["factor"],
    )  # fmt: skip
    outer = helper.make_function(
        "my.ops", "Twice", ["a"], ["c"],
        [
            node("Relu", ["a"], ["b"], name="in", domain="my.ops", factor=10.0),
            node("Add", ["b", "b"], ["c"], name="sum"),
        ],
        imports,
    )  # fmt: skip
    proto = model(
        [
            node("Twice", ["x"], ["y"], name="first", domain="my.ops"),
            node("Twice", ["y"], ["z"], name="second", domain="my.ops"),
        ],
        [value("x", [2])],
        [value("z", [2])],
        functions=[inner, outer],
        domains=["my.ops"],
    )
    result = imported(proto, tmp_path)
    (actual,) = run(result, {"x": np.array([-1, 1], np.float32)})
    np.testing.assert_array_equal(actual, [-400, 400])
    names = [binding.var.name for binding in result.module["main"].body.blocks[0].bindings]
    assert names == ["first/in/times", "first/sum", "second/in/times", "second/sum"]


def test_functions_that_call_each_other_are_refused(tmp_path: Path) -> None:
    function = helper.make_function(
        "my.ops", "Again", ["a"], ["b"], [node("Again", ["a"], ["b"], domain="my.ops")],
        [helper.make_opsetid("my.ops", 1)],
    )  # fmt: skip
    proto = model(
        [node("Again", ["x"], ["y"], name="loop", domain="my.ops")],
        [value("x", [2])],
        [value("y", [2])],
        functions=[function],
        domains=["my.ops"],
    )
    with pytest.raises(ModelError, match="in a circle"):
        imported(proto, tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"value_float": 2.0},
        {"value_floats": [2.0, 3.0]},
        {"value": numpy_helper.from_array(floats(2))},
    ],
)
def test_constants_of_every_form(tmp_path: Path, attributes: dict[str, Any]) -> None:
    proto = model(
        [node("Constant", [], ["k"], **attributes), node("Mul", ["x", "k"], ["y"])],
        [value("x", [2])],
        [value("y", [2])],
    )
    assert_like_reference(proto, tmp_path, {"x": floats(2)})


def branch(op: str) -> Any:
    return helper.make_graph(
        [node(op, ["x"], ["t"]), node("Neg", ["t"], ["r"])], op, [], [value("r", [2])]
    )


@pytest.mark.parametrize("condition", [True, False])
def test_both_branches_of_an_if_can_be_taken(tmp_path: Path, condition: bool) -> None:
    choice = node(
        "If", ["c"], ["y"], name="choice", then_branch=branch("Exp"), else_branch=branch("Abs")
    )
    proto = model([choice], [value("c", [], "bool"), value("x", [2])], [value("y", [2])])
    feeds = {"c": np.array(condition), "x": floats(2)}
    result = assert_like_reference(proto, tmp_path, feeds)
    assert any(r.op == "choice" and "both branches" in r.message for r in result.remarks)


def test_constant_condition_leaves_one_branch(tmp_path: Path) -> None:
    choice = node(
        "If", ["c"], ["y"], name="choice", then_branch=branch("Exp"), else_branch=branch("Abs")
    )
    proto = model([choice], [value("x", [2])], [value("y", [2])], {"c": np.array(False)})
    result = assert_like_reference(proto, tmp_path, {"x": floats(2)})
    assert "exp" not in str(result.module["main"])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_in_both_modes(tmp_path: Path, mode: str) -> None:
    proto = model(
        [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)],
        [value("x", [1, 8, 2, 3])],
        [value("y", None)],
    )
    assert_like_reference(proto, tmp_path, {"x": floats(1, 8, 2, 3)})


def test_top_k_of_version_10_reads_its_input(tmp_path: Path) -> None:
    proto = model(
        [node("TopK", ["x", "k"], ["v", "i"])],
        [value("x", [2, 5])],
        [value("v", [2, 3]), value("i", [2, 3], "int64")],
        {"k": np.array([3])},
        opset=10,
    )
    assert_like_reference(proto, tmp_path, {"x": floats(2, 5)})


def test_slices_by_attributes_before_version_10(tmp_path: Path) -> None:
    proto = model(
        [node("Slice", ["x"], ["y"], starts=[1, -2], ends=[9, 99], axes=[0, 1])],
        [value("x", [3, 4])],
        [value("y", None)],
        opset=9,
    )
    assert_like_reference(proto, tmp_path, {"x": floats(3, 4)})


def test_gather_never_reads_beside_the_tensor(tmp_path: Path) -> None:
    proto = model(
        [node("Gather", ["x", "i"], ["y"])],
        [value("x", [3, 2]), value("i", [4], "int64")],
        [value("y", [4, 2])],
    )
    x = floats(3, 2)
    feeds = {"x": x, "i": np.array([-1, 0, 10**9, -(10**9)])}
    (actual,) = run(imported(proto, tmp_path), feeds)
    np.testing.assert_array_equal(actual, x[[2, 0, 2, 0]])


def test_constant_index_out_of_range_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("Gather", ["x", "i"], ["y"], name="pick")],
        [value("x", [3, 2])],
        [value("y", [1, 2])],
        {"i": np.array([3])},
    )
    with pytest.raises(ModelError, match=r"node 'pick' .*out of range"):
        imported(proto, tmp_path)


def test_empty_region_and_empty_axes_are_no_data(tmp_path: Path) -> None:
    """Constants without elements that only say "none", as exporters write them."""
    proto = model(
        [
            node("Resize", ["x", "roi", "scales"], ["a"], mode="nearest"),
            node("ReduceSum", ["a", "axes"], ["y"]),
        ],
        [value("x", [1, 1, 2, 2])],
        [value("y", None)],
        {
            "roi": np.zeros(0, np.float32),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "axes": np.zeros(0, np.int64),
        },
        opset=13,
    )
    assert_like_reference(proto, tmp_path, {"x": floats(1, 1, 2, 2)})


def test_an_empty_part_of_a_split_is_dropped_by_concat(tmp_path: Path) -> None:
    proto = model(
        [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        {"s": np.array([3, 0])},
    )
    assert_like_reference(proto, tmp_path, {"x": floats(2, 3)})
