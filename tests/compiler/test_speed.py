"""Kernels of two packages are joined by their nodes, and only a sure loss is a loss."""

from collections.abc import Sequence

import numpy as np
import pytest

from tvmopt import Layer
from tvmopt.compiler.executor import Executor
from tvmopt.compiler.package import Package
from tvmopt.compiler.speed import (
    KernelTimes,
    Ratios,
    compare_wholes,
    connected,
    grouped,
    ratios_of,
    time_kernels,
)


def layer(*nodes: str) -> Layer:
    return Layer("+".join(nodes), nodes, "op", "rule", "", 1, 1, ())


def times(layers: Sequence[Layer], *rounds: Sequence[float]) -> KernelTimes:
    return KernelTimes(layers, np.array(rounds, float))


def test_names_that_meet_in_any_set_are_one_component():
    sets = [("a", "b"), ("c",), ("d", "e"), ("b", "d"), ()]
    assert {frozenset("abde"), frozenset("c")} == set(connected(sets))


def test_kernels_that_join_other_nodes_are_compared_as_groups():
    in_float = times(
        [layer("conv1", "relu1"), layer("conv2"), layer("add"), layer()],
        [10, 4, 2, 9],
        [12, 4, 2, 9],
        [11, 4, 2, 9],
    )
    in_int8 = times([layer("conv1"), layer("relu1"), layer("conv2", "add")], *[[5, 1, 9]] * 3)
    first, second = sorted(grouped(in_float, in_int8), key=lambda one: min(one.nodes), reverse=True)
    assert (first.nodes, first.float_us, first.int8_us) == ({"conv1", "relu1"}, 11, 6)
    assert not first.loses
    assert (second.nodes, second.float_us, second.int8_us) == ({"conv2", "add"}, 6, 9)
    assert second.loses
    assert second.lost_us == 3


def test_what_one_package_does_not_compute_is_no_group():
    assert not grouped(times([layer("a")], [1]), times([layer("b")], [2]))


@pytest.mark.parametrize(
    ("values", "is_above"),
    [
        ([1.3, 1.3, 1.3, 1.3, 1.3], True),
        ([1.05, 1.05, 1.05, 1.05, 1.05], False),  # sure, but little
        ([1.3, 1.3, 1.3, 0.9, 0.9], False),  # much, but not sure
        ([1.3, 1.3, 1.3, 1.3, 0.5], True),
        ([0.5, 0.5, 0.5, 9.0, 9.0], False),
    ],
)
def test_a_loss_is_one_that_nearly_all_rounds_show(values: list[float], *, is_above: bool):
    assert Ratios(tuple(values), 1.3).is_above(1.1) is is_above


def test_other_programs_only_add_to_times():
    disturbed = ratios_of([30, 40, 10, 35, 30], [10, 10, 10, 10, 10])
    assert disturbed.median == 3
    assert disturbed.least == 1
    assert not disturbed.is_above(1.1)
    assert disturbed.highest == 3


def test_a_kernel_s_time_is_found_by_its_nodes():
    found = times([layer("a", "b"), layer("c"), layer("a")], [1, 2, 3], [3, 2, 3], [2, 2, 3])
    assert found.of(("b",)) == 2
    assert found.of(("a",)) == 5
    assert found.of(("z",)) == 0
    assert found.whole_us == 7


def test_packages_are_measured_in_rounds_that_belong_together(small_package: Package):
    executor: Executor = small_package.executor
    inputs = small_package.sample_inputs()
    found = compare_wholes({"a": executor, "b": executor}, inputs, 1, seconds=0.01)
    assert len(found["a"]) == len(found["b"]) == 7
    assert min(found["a"] + found["b"]) > 0


def test_kernels_are_measured_call_by_call(small_package: Package):
    pair = small_package.executor, small_package.report.layers
    first, second = time_kernels([pair, pair], small_package.sample_inputs(), 1, seconds=0.01)
    assert first.rounds.shape == second.rounds.shape == (5, len(small_package.report.layers))
