"""Bringing what follows a matrix product into the loops of its rows and columns."""

from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.schedule import SBlockRV, ScheduleError

from tvmopt_schedules.cpu.blocks import is_reduction


def join_epilogue(
    sch: s_tir.Schedule, store: str, after: tuple[str, ...], axes: int = 2
) -> tuple[s_tir.Schedule, SBlockRV] | None:
    """Makes one block of the product's store and its epilogue, with loops ([batch,] row, column).

    Bias, residual, activation, and moves of elements such as a transpose of heads all end up in the
    last block, whose iterations are then reordered to the product's own. The schedule is in an
    undefined state when this fails.

    Args:
        sch: the schedule.
        store: the block that writes the product as `[.., M, N]`.
        after: the blocks that follow it, in order.
        axes: 2 for (row, column), where the leading axes count as rows; 3 for (batch, row, column).

    Returns:
        The schedule, made anew, and the block; None when the epilogue does not read one element of
        the product for each of its own.
    """
    if any(is_reduction(sch, sch.get_sblock(name)) for name in after):
        return None
    try:
        for name in after[:-1]:
            sch.compute_inline(sch.get_sblock(name))
        last = sch.get_sblock(after[-1] if after else store)
        index = _read_index(sch, last, store, axes) if after else _own_index(sch, last, axes)
        if index is None:
            return None
        if after:
            sch.compute_inline(sch.get_sblock(store))
        sch.transform_block_layout(last, index)
    except ScheduleError:
        return None
    # `row // 50 * 50 + row % 50` is `row`: compute_at finds no exact region otherwise.
    simple = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))
    return simple, simple.get_sblock(sch.get(last).name_hint)


def _own_index(sch: s_tir.Schedule, block: SBlockRV, axes: int) -> tirx.IndexMap:
    iters = sch.get(block).iter_vars
    shape = [it.dom.extent for it in iters]
    variables = [it.var for it in iters]
    return _merged(variables, list(variables), shape, axes)


def _read_index(
    sch: s_tir.Schedule, block: SBlockRV, store: str, axes: int
) -> tirx.IndexMap | None:
    """Which element of the product each iteration of `block` reads, as ([batch,] row, column)."""
    buffer = sch.get(sch.get_sblock(store)).writes[0].source
    body = sch.get(block)
    found: list[TensorLoad] = []

    def note(load: TensorLoad) -> None:
        if load.source.same_as(buffer):
            found.append(load)

    tvm_ffi.structural_walk(body.body, [(TensorLoad, note)])
    if not found:
        return None
    first = list(found[0].indices)
    for load in found[1:]:
        if not all(
            tvm_ffi.structural_equal(a, b) for a, b in zip(first, load.indices, strict=True)
        ):
            return None
    return _merged([it.var for it in body.iter_vars], first, list(buffer.shape), axes)


def _merged(
    variables: list[tirx.Var], index: list[Any], shape: list[Any], axes: int
) -> tirx.IndexMap:
    first: Any = tirx.const(0, "int64")
    lead = len(index) - axes + 1
    for at, extent in zip(index[:lead], shape[:lead], strict=True):
        first = first * extent + at if int(extent) > 1 else first
    return tirx.IndexMap(variables, [first, *index[lead:]], None)
