"""What follows a kernel on blocked channels: which loops are straight code, which parallel."""

from collections.abc import Callable
from typing import Any

import pytest
from tvm import s_tir, te, tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.code.blocks import Kernel
from tvmopt_schedules.cpu.code.loops import PARALLEL_WORK
from tvmopt_schedules.cpu.convolution.blocked_epilogue import (
    close_kernel,
    schedule_moves,
    store_tile,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.matmul.epilogue import product_and_epilogue

MACHINE = Machine(lanes=8, registers=16, cores=2, l1_bytes=32 << 10, l2_bytes=1 << 20)
LARGE = PARALLEL_WORK // 64


def _map(rows: int, value: Callable[[Any], Any]) -> s_tir.Schedule:
    x = te.placeholder((rows, 64), name="x")
    y = te.compute((rows, 64), lambda i, j: value(x[i, j]), name="y")
    return s_tir.Schedule(te.create_prim_func([x, y]))


def _kinds(sch: s_tir.Schedule, block: str) -> list[int]:
    return [int(sch.get(loop).kind) for loop in sch.get_loops(sch.get_sblock(block))]


@pytest.mark.parametrize(
    ("value", "is_straight"),
    [
        (lambda x: tirx.if_then_else(x > 0, x, 0.0), True),
        (lambda x: tirx.likely(x > 0).astype("float32"), True),
        (tirx.abs, True),
        (tirx.exp, False),
    ],
)
def test_tiles_are_straight_code_unless_they_hold_a_polynomial(
    value: Callable[[Any], Any], is_straight: bool
) -> None:
    sch = _map(4, value)
    block = sch.get_sblock("y")
    row, lane = sch.get_loops(block)
    store_tile(sch, block, (row,), lane)
    expected = ForKind.UNROLLED if is_straight else ForKind.SERIAL
    assert _kinds(sch, "y") == [expected, ForKind.VECTORIZED]


@pytest.mark.parametrize(("rows", "is_parallel"), [(LARGE - 1, False), (LARGE, True)])
def test_moves_are_parallel_where_they_are_worth_it(rows: int, is_parallel: bool) -> None:
    sch = _map(rows, lambda x: x)
    schedule_moves(sch, ("y",), MACHINE)
    assert (ForKind.PARALLEL in _kinds(sch, "y")) == is_parallel


@pytest.mark.parametrize(("rows", "is_parallel"), [(LARGE - 1, False), (LARGE, True)])
def test_epilogues_apart_are_parallel_where_they_are_worth_it(rows: int, is_parallel: bool) -> None:
    x = te.placeholder((rows, 64), name="x")
    store = te.compute((rows, 64), lambda i, j: x[i, j] + 1.0, name="store")
    # Two elements of the product for one result: this cannot join it.
    after = te.compute((rows, 64), lambda i, j: store[i, j] + store[i, 63 - j], name="after")
    func = te.create_prim_func([x, after], index_dtype_override="int64")
    sch, last = product_and_epilogue(func, "store", ["after"], 2, MACHINE.lanes)
    assert last == "store"
    assert (ForKind.PARALLEL in _kinds(sch, "after")) == is_parallel


def test_what_does_not_read_the_product_keeps_loops_of_its_own() -> None:
    x = te.placeholder((16, 64), name="x")
    store = te.compute((16, 64), lambda i, j: x[i, j] + 1.0, name="store")
    other = te.compute((16, 64), lambda i, j: x[i, j] * 2.0, name="other")
    func = te.create_prim_func([x, store, other], index_dtype_override="int64")
    assert product_and_epilogue(func, "store", ["other"], 2, MACHINE.lanes)[1] == "store"


def _moved(shape: tuple[int, ...], index: Callable[..., tuple[Any, ...]]) -> s_tir.Schedule:
    """An anchor `[1, 8, 4, 4, 8]` and a block of `shape` that reads it at `index`."""
    x = te.placeholder((1, 8, 4, 4, 8), name="x")
    k = te.reduce_axis((0, 1), "k")
    anchor = te.compute(x.shape, lambda n, c, y, w, b: te.sum(x[n, c, y + k, w, b], axis=k), "dot")
    move = te.compute(shape, lambda *at: anchor(*index(*at)) * 2.0, name="move")
    return s_tir.Schedule(te.create_prim_func([x, move]))


def _interleaved(n: Any, c: Any, y: Any, x: Any, b: Any) -> tuple[Any, ...]:
    phase = tirx.floormod(y, 2) * 2 + tirx.floormod(x, 2)
    return n, phase * 2 + c, tirx.floordiv(y, 2), tirx.floordiv(x, 2), b


@pytest.mark.parametrize(
    ("shape", "index", "cut", "stays"),
    [
        ((1, 2, 8, 8, 8), _interleaved, False, ()),
        ((1, 2, 7, 7, 8), _interleaved, False, ("move",)),
        ((1, 2, 7, 7, 8), _interleaved, True, ()),
        ((1, 64, 4, 4), lambda n, c, y, x: (n, c // 8, y, x, c % 8), False, ("move",)),
        ((1, 8, 8, 4, 8), lambda n, c, y, x, b: (n, c, y // 2, x, b), False, ("move",)),
    ],
    ids=["interleaved", "some cut off", "cut with predicates", "lanes apart", "rows twice"],
)
def test_moves_of_whole_vectors_are_stored_in_place(
    shape: tuple[int, ...], index: Any, cut: bool, stays: tuple[str, ...]
) -> None:
    sch = _moved(shape, index)
    _, moves = close_kernel(sch, Kernel((), "dot", ("move",)), cut=cut)
    assert moves == stays
