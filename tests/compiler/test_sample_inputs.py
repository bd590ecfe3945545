import numpy as np
from onnx import TensorProto, helper

from tvmopt import TensorSpec
from tvmopt.compiler.sample_inputs import input_ranges, sample_inputs


def ranges(nodes, spec, **constants: tuple[int, ...]):
    return input_ranges(helper.make_graph(nodes, "g", [], []), [spec], constants)


IDS = TensorSpec("ids", (2, 7), "int64")


def test_token_ids_stay_below_the_size_of_the_embedding():
    nodes = [
        helper.make_node("Cast", ["ids"], ["a"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Gather", ["table", "b"], ["c"]),
    ]
    assert ranges(nodes, IDS, table=(30, 8)) == {"ids": (0, 29)}


def test_the_gathered_axis_counts_also_from_the_end():
    nodes = [helper.make_node("Gather", ["table", "ids"], ["a"], axis=-1)]
    assert ranges(nodes, IDS, table=(30, 8)) == {"ids": (0, 7)}


def test_the_smallest_of_several_tables_decides():
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["a"]),
        helper.make_node("Gather", ["types", "ids"], ["b"]),
    ]
    assert ranges(nodes, IDS, words=(30, 8), types=(2, 8)) == {"ids": (0, 1)}


def test_indices_used_inside_a_branch_are_seen():
    branch = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["a"])], "then", [], []
    )
    nodes = [helper.make_node("If", ["condition"], ["b"], then_branch=branch, else_branch=branch)]
    assert ranges(nodes, IDS, table=(5, 8)) == {"ids": (0, 4)}


def test_an_integer_that_picks_nothing_is_a_mask():
    nodes = [helper.make_node("Cast", ["ids"], ["a"], to=TensorProto.FLOAT)]
    assert ranges(nodes, IDS) == {"ids": (0, 1)}


def test_bytes_are_data():
    spec = TensorSpec("image", (4,), "uint8")
    assert ranges([], spec) == {"image": (0, 255)}


def test_values_fill_the_range_and_follow_the_seed():
    spec = TensorSpec("ids", (1000,), "int64")
    values = sample_inputs([spec], {"ids": (0, 3)}, seed=5)["ids"]
    assert set(values) == {0, 1, 2, 3}
    assert values.dtype == np.int64
    again = sample_inputs([spec], {"ids": (0, 3)}, seed=5)["ids"]
    other = sample_inputs([spec], {"ids": (0, 3)}, seed=6)["ids"]
    assert np.array_equal(values, again)
    assert not np.array_equal(values, other)


def test_no_row_of_a_mask_is_empty():
    spec = TensorSpec("mask", (100, 2), "int64")
    values = sample_inputs([spec], {"mask": (0, 1)})["mask"]
    assert values.any(axis=1).all()
    assert not values.all()


def test_constant_fills_ignore_ranges():
    specs = [IDS, TensorSpec("x", (), "float16"), TensorSpec("flag", (3,), "bool")]
    ones = sample_inputs(specs, {"ids": (0, 9)}, fill="ones")
    assert all((ones[spec.name] == 1).all() for spec in specs)
    assert [ones[spec.name].dtype.name for spec in specs] == ["int64", "float16", "bool"]
