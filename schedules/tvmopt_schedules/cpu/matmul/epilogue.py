"""Bringing what follows a matrix product into the loops of its rows and columns."""

from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.schedule import SBlockRV

from tvmopt_schedules.cpu.code.loops import NOT_LEGAL, PARALLEL_WORK, extent, fuse, is_spatial, work


def product_and_epilogue(
    func: tirx.PrimFunc, store: str, after: Sequence[str], axes: int, lanes: int
) -> tuple[s_tir.Schedule, str]:
    """Starts the schedule of a matrix product with one block for its store and its epilogue.

    Bias, residual, activation, and moves of elements such as a transpose of heads all end up in the
    last block, whose loops become those of the product. Where that is not possible, the product is
    stored first and the epilogue keeps loops of its own.

    Args:
        func: the kernel.
        store: the block that writes the product as `[.., M, N]`.
        after: the blocks that follow it, in order.
        axes: 2 for loops (row, column), where the leading axes count as rows; 3 for (batch, row,
            column).
        lanes: of a vector.

    Returns:
        The schedule, and the name of the block with those loops.
    """
    if after:
        try:
            return _joined(func, store, after, axes), after[-1]
        except NOT_LEGAL:
            pass
    sch = _joined(func, store, (), axes)
    for name in after:
        _plain_loops(sch, sch.get_sblock(name), lanes)
    return sch, store


def _joined(func: tirx.PrimFunc, store: str, after: Sequence[str], axes: int) -> s_tir.Schedule:
    sch = s_tir.Schedule(func)
    for name in after[:-1]:
        sch.compute_inline(sch.get_sblock(name))
    last = sch.get_sblock(after[-1] if after else store)
    if not is_spatial(sch, last):
        raise ValueError("the epilogue reduces")
    index = _read_index(sch, last, store, axes) if after else _own_index(sch, last, axes)
    if after:
        sch.compute_inline(sch.get_sblock(store))
    sch.transform_block_layout(last, index)
    # `row // 50 * 50 + row % 50` is `row`: compute_at finds no exact region otherwise.
    return s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))


def _own_index(sch: s_tir.Schedule, block: SBlockRV, axes: int) -> tirx.IndexMap:
    iters = sch.get(block).iter_vars
    variables = [it.var for it in iters]
    return _merged(variables, list(variables), [it.dom.extent for it in iters], axes)


def _read_index(sch: s_tir.Schedule, block: SBlockRV, store: str, axes: int) -> tirx.IndexMap:
    """Which element of the product each iteration of `block` reads, as ([batch,] row, column)."""
    buffer = sch.get(sch.get_sblock(store)).writes[0].source
    body = sch.get(block)
    found: list[Any] = []

    def note(load: TensorLoad) -> None:
        if load.source.same_as(buffer):
            found.append(list(load.indices))

    tvm_ffi.structural_walk(body.body, [(TensorLoad, note)])
    if not found:
        raise ValueError("the epilogue does not read the product")
    first = found[0]
    for other in found[1:]:
        pairs = zip(first, other, strict=True)
        if not all(tvm_ffi.structural_equal(one, two) for one, two in pairs):
            raise ValueError("the epilogue reads several elements of the product")
    return _merged([it.var for it in body.iter_vars], first, list(buffer.shape), axes)


def _merged(
    variables: list[tirx.Var], index: list[Any], shape: list[Any], axes: int
) -> tirx.IndexMap:
    first: Any = tirx.const(0, "int64")
    lead = len(index) - axes + 1
    for at, size in zip(index[:lead], shape[:lead], strict=True):
        first = first * size + at if int(size) > 1 else first
    return tirx.IndexMap(variables, [first, *index[lead:]], None)


def _plain_loops(sch: s_tir.Schedule, block: SBlockRV, lanes: int) -> None:
    if not is_spatial(sch, block):
        return
    is_big = work(sch, block) >= PARALLEL_WORK
    *outer, inner = sch.get_loops(block)
    if (extent(sch, inner) or 1) % lanes == 0:
        sch.vectorize(sch.split(inner, [None, lanes])[1])
    if outer and is_big:
        sch.parallel(fuse(sch, outer))
