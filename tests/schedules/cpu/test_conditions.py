"""Where loops are cut: the iterations at which conditions change, and no others."""

from collections.abc import Callable
from typing import Any

import pytest
from tvm import s_tir, te, tirx

from tvmopt_schedules.cpu.code.conditions import breaks, period

LENGTH = 24


def _block(value: Callable[[Any, te.Tensor], Any]) -> tuple[s_tir.Schedule, Any, Any]:
    x = te.placeholder((LENGTH,), name="x")
    y = te.compute((LENGTH,), lambda i: value(i, x), name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    block = sch.get_sblock("y")
    return sch, block, sch.get_loops(block)[0]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (lambda i: i < 5, lambda i: i < 5),
        (lambda i: i <= 5, lambda i: i <= 5),
        (lambda i: i > 5, lambda i: i > 5),
        (lambda i: i >= 5, lambda i: i >= 5),
        (lambda i: 5 - i > 0, lambda i: 5 - i > 0),
        (lambda i: 5 - i >= 0, lambda i: 5 - i >= 0),
        (lambda i: 7 - 2 * i < 0, lambda i: 7 - 2 * i < 0),
        (lambda i: 8 - 2 * i <= 0, lambda i: 8 - 2 * i <= 0),
        (lambda i: 3 * i < 10, lambda i: 3 * i < 10),
        (lambda i: tirx.EQ(i, 7), lambda i: i == 7),
        (lambda i: tirx.all(i >= 2, i < 22), lambda i: 2 <= i < 22),
        (lambda i: i < 100, lambda i: True),
    ],
)
def test_loop_is_cut_exactly_where_the_condition_changes(condition: Any, holds: Any) -> None:
    sch, block, loop = _block(lambda i, x: tirx.if_then_else(condition(i), x[i], 0.0))
    changes = [i for i in range(1, LENGTH) if holds(i) != holds(i - 1)]
    assert breaks(sch, block, loop) == changes


def test_condition_on_data_cuts_nothing() -> None:
    sch, block, loop = _block(lambda i, x: tirx.if_then_else(x[i] > 0, x[i], 0.0))
    assert breaks(sch, block, loop) == []


@pytest.mark.parametrize(("modulus", "expected"), [(8, 8), (12, 12), (7, None), (24, None)])
def test_period_of_remainders_divides_the_loop(modulus: int, expected: int | None) -> None:
    sch, block, loop = _block(lambda i, x: x[i % modulus] + x[i // modulus])
    assert period(sch, block, loop) == expected
