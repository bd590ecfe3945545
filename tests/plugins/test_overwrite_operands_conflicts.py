"""What a kernel may write over: loops as schedules leave them, and each way to go wrong."""

from typing import Any

import pytest
from tvm import tirx
from tvm.script import tirx as T

from tvmopt_plugins.overwrite_operands.accesses import Accesses, UnclearError
from tvmopt_plugins.overwrite_operands.conflicts import conflicts


def prefetch(address: Any) -> Any:
    return tirx.call_intrin("void", "tirx.prefetch", address, 0, 2, 1)


def has_conflict(func: Any) -> bool:
    """Between the first parameter, which is read, and the last, which is written."""
    shape = [int(dim) for dim in func.params[-1].shape]
    found = Accesses.of(func, func.params[0], func.params[-1])
    assert found.loads
    assert found.stores
    return any(conflicts(load, store, shape) for load in found.loads for store in found.stores)


@T.prim_func(private=True, s_tir=True)
def tile_that_juts_out(x: T.Buffer((7, 8), "float32"), y: T.Buffer((7, 8), "float32")):
    for outer in T.parallel(4):
        for inner in T.unroll(2):
            for lane in T.vectorized(8):
                with T.sblock("add"):
                    i = T.axis.spatial(7, outer * 2 + inner)
                    j = T.axis.spatial(8, lane)
                    T.where(outer * 2 + inner < 7)
                    y[i, j] = x[i, j] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def one_loop_for_all_axes(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for i in T.parallel(4):
        for lane in T.vectorized(8):
            y[0, i * 8 + lane] = x[0, i * 8 + lane] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def squares_of_winograd(x: T.Buffer((1, 6, 6, 4), "float32"), y: T.Buffer((1, 6, 6, 4), "float32")):
    for batch in T.parallel(2):
        for i in range(T.max(T.min(5, 9 - batch * 5), 0)):
            row: T.let[T.int32] = (batch * 5 + i) // 3 * 2
            column: T.let[T.int32] = (batch * 5 + i) % 3 * 2
            for k in range(2):
                for lane in T.vectorized(4):
                    y[0, row + k, column, lane] = x[0, row + k, column, lane] * T.float32(2)
                for lane in T.vectorized(4):
                    y[0, row + k, column + 1, lane] = x[0, row + k, column + 1, lane] * T.float32(2)


@T.prim_func(private=True, s_tir=True)
def row_that_is_summed_first(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    total = T.alloc_buffer((1,))
    for i in T.parallel(4):
        total[0] = T.float32(0)
        for j in range(8):
            total[0] = total[0] + x[i, j]
        for j in range(8):
            y[i, j] = x[i, j] - total[0]


@T.prim_func(private=True, s_tir=True)
def result_that_is_cleared_first(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for i, j in T.grid(4, 8):
        y[i, j] = T.float32(0)
        y[i, j] = y[i, j] + x[i, j]


@T.prim_func(private=True, s_tir=True)
def sums_of_all_rows(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for i in range(4):
        for k in range(4):
            for j in T.vectorized(8):
                y[i, j] = T.if_then_else(k > 0, y[i, j], T.float32(0)) + x[k, j]


@T.prim_func(private=True, s_tir=True)
def overlapping_tiles(x: T.Buffer((7, 8), "float32"), y: T.Buffer((7, 8), "float32")):
    for outer in T.parallel(2):
        for inner in range(4):
            for lane in T.vectorized(8):
                y[outer * 3 + inner, lane] = x[outer * 3 + inner, lane] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def rows_that_run_into_each_other(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    """One element behind a row is the first one of the next."""
    for i in range(4):
        for j in range(9):
            if i * 8 + j < 32:
                y[i, j] = x[i, j] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def neighbour(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in T.vectorized(8):
        y[i] = x[i] + T.if_then_else(i > 0, x[i - 1], T.float32(0))


@T.prim_func(private=True, s_tir=True)
def sum_that_other_rows_need(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    total = T.alloc_buffer((1,))
    for i in range(4):
        total[0] = T.float32(0)
        for k, j in T.grid(4, 8):
            total[0] = total[0] + x[k, j]
        for j in range(8):
            y[i, j] = x[i, j] - total[0]


@pytest.mark.parametrize(
    "func",
    [
        tile_that_juts_out,
        one_loop_for_all_axes,
        squares_of_winograd,
        row_that_is_summed_first,
    ],
    ids=lambda func: func.__name__,
)
def test_elements_that_are_read_before_they_are_written_are_no_conflict(func: Any) -> None:
    assert not has_conflict(func)


@pytest.mark.parametrize(
    "func",
    [
        result_that_is_cleared_first,
        sums_of_all_rows,
        overlapping_tiles,
        rows_that_run_into_each_other,
        neighbour,
        sum_that_other_rows_need,
    ],
    ids=lambda func: func.__name__,
)
def test_elements_that_may_be_written_first_are_a_conflict(func: Any) -> None:
    assert has_conflict(func)


@T.prim_func(private=True, s_tir=True)
def place_from_data(
    x: T.Buffer((8,), "float32"), at: T.Buffer((8,), "int32"), y: T.Buffer((8,), "float32")
):
    for i in range(8):
        y[at[i]] = x[at[i]] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def address_that_is_passed_on(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        y[i] = x[i] + T.call_extern("float32", "f", T.address_of(x[0]))


@T.prim_func(private=True, s_tir=True)
def operand_that_is_written(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        x[i] = T.float32(1)
        y[i] = x[i]


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (place_from_data, "computes where"),
        (address_that_is_passed_on, "address"),
        (operand_that_is_written, "writes to it already"),
    ],
)
def test_what_cannot_be_followed_is_named(func: Any, why: str) -> None:
    with pytest.raises(UnclearError, match=why):
        has_conflict(func)


@T.prim_func(private=True, s_tir=True)
def asked_for_ahead(x: T.Buffer((4, 16), "float32"), y: T.Buffer((4, 16), "float32")):
    for i in range(4):
        T.evaluate(prefetch(T.address_of(x[i + 1, 0])))
        for j in range(16):
            y[i, j] = x[i, j] + T.float32(1)


def test_prefetch_is_no_read() -> None:
    assert not has_conflict(asked_for_ahead)
