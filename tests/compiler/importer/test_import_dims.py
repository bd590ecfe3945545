"""Open dimensions are fixed by what the user gives, and by nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from small_onnx import model, node, value

from tvmopt import ModelError, ModelSource, UsageError
from tvmopt.compiler.importer import ImportedModel, import_model
from tvmopt.compiler.importer.dims import evaluate


def freeze(
    folder: Path,
    shapes: Mapping[str, Sequence[Any] | None],
    given: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> ImportedModel:
    proto = model(
        [node("Relu", [name], [f"{name}_out"]) for name in shapes],
        [value(name, shape) for name, shape in shapes.items()],
        [value(f"{name}_out", None) for name in shapes],
    )
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return import_model(ModelSource(path, dict(given or {}), dict(dims or {})))


def shapes_of(result: ImportedModel) -> list[tuple[int, ...]]:
    return [spec.shape for spec in result.inputs]


def test_open_dimensions_are_named_with_the_exact_flags(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"dimension 0 \('batch'\) of input 'x'") as caught:
        freeze(tmp_path, {"x": ["batch", 3], "y": ["batch", "seq"]})
    assert caught.value.hint == "fix them, for example with --dim batch=1 --dim seq=1"


def test_unnamed_dimensions_get_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        freeze(tmp_path, {"x": [None, None]})
    assert "--dim x_dim_0=1 --dim x_dim_1=1" in (caught.value.hint or "")
    result = freeze(tmp_path, {"x": [None, None]}, dims={"x_dim_0": 2, "x_dim_1": 3})
    assert shapes_of(result) == [(2, 3)]


def test_a_named_dimension_is_fixed_everywhere(tmp_path: Path) -> None:
    result = freeze(tmp_path, {"x": ["batch", 3], "y": [2, "batch"]}, dims={"batch": 4})
    assert shapes_of(result) == [(4, 3), (2, 4)]
    assert [spec.shape for spec in result.outputs] == [(4, 3), (2, 4)]


def test_a_given_shape_fixes_its_dimensions_in_other_inputs(tmp_path: Path) -> None:
    result = freeze(tmp_path, {"x": ["b", 3], "y": ["b", 1]}, given={"x": (5, 3)})
    assert shapes_of(result) == [(5, 3), (5, 1)]


def test_composite_dimensions_follow_from_their_parts(tmp_path: Path) -> None:
    shapes = {"x": ["past", "seq"], "mask": [1, "past+seq*2"]}
    assert shapes_of(freeze(tmp_path, shapes, dims={"past": 3, "seq": 4})) == [(3, 4), (1, 11)]
    with pytest.raises(ModelError) as caught:
        freeze(tmp_path, shapes, dims={"past": 3})
    assert "--dim seq=1" in (caught.value.hint or "")
    assert "past" not in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "size"),
    [("a+b*c", 14), ("(a+b)*c", 20), ("a//b", 0), ("Max(a, b)", 3), ("c - a", 2), ("a+z", None)],
)
def test_composite_dimensions_are_read_as_written(text: str, size: int | None) -> None:
    assert evaluate(text, {"a": 2, "b": 3, "c": 4}) == size


def test_zero_dimension_is_not_taken_for_an_open_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dimension 0 of input 'x' is 0"):
        freeze(tmp_path, {"x": [0, 3]})
    assert shapes_of(freeze(tmp_path, {"x": [0, 3]}, given={"x": (2, 3)})) == [(2, 3)]


def test_unknown_rank_needs_the_whole_shape(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not even a rank"):
        freeze(tmp_path, {"x": None})
    assert shapes_of(freeze(tmp_path, {"x": None}, given={"x": (2, 3)})) == [(2, 3)]


def test_misspelt_input_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input is called 'imagine'") as caught:
        freeze(tmp_path, {"image": ["b", 3]}, given={"imagine": (1, 3)})
    assert caught.value.hint == "did you mean 'image'?"


def test_misspelt_dimension_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no open dimension is called 'bach'") as caught:
        freeze(tmp_path, {"image": ["batch", 3]}, dims={"bach": 1})
    assert caught.value.hint == "did you mean 'batch'?"


@pytest.mark.parametrize(
    ("given", "dims", "message"),
    [
        ({"x": (1, 4)}, {}, "is 3 in the file, but 4 is given"),
        ({"x": (1,)}, {}, "has 2 dimensions"),
        ({"x": (0, 3)}, {}, "must be positive, not 0"),
        ({}, {"b": -1}, "must be positive, not -1"),
        ({"x": (1, 3)}, {"b": 2}, "but 2 by --dim"),
        ({"x": (1, 3), "y": (2, 3)}, {}, "but 1 for another input"),
    ],
)
def test_contradictions_are_usage_errors(
    tmp_path: Path, given: dict[str, tuple[int, ...]], dims: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        freeze(tmp_path, {"x": ["b", 3], "y": ["b", 3]}, given, dims)


def test_scalars_need_nothing(tmp_path: Path) -> None:
    assert shapes_of(freeze(tmp_path, {"x": []})) == [()]


def test_file_shapes_of_inner_tensors_do_not_matter(tmp_path: Path) -> None:
    proto = model(
        [node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["y"])],
        [value("x", ["n"])],
        [value("y", ["stale"])],
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [77]))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert import_model(ModelSource(path, {}, {"n": 2})).outputs[0].shape == (2,)
