"""Transposes in registers: square tiles of vectors, exchanged block by block.

A loop nest `for i: for lane: y[.., i, lane] = x[.., lane, i]` reads or writes one element at a
time. Here `lanes` vectors are loaded along `i`, and in log2(lanes) steps the off-diagonal blocks of
1, 2, 4 ... elements are exchanged by two-operand shuffles (Eklundh, "A fast computer method for
matrix transposing", 1972). Packing the keys of attention that way takes a quarter of the time.
"""

from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, sym, tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.code.terms import is_conditional, substitute, variables

TRANSPOSE = "tvmopt.transpose"
"""Annotation of the outer of two serial loops around a block that stores transposed elements.

The inner loop is as long as a vector or shorter, and the store is contiguous along it. Nests that
do not move squares of 2, 4, 8 ... elements stay loops.
"""


def transpose_annotated(sch: s_tir.Schedule) -> s_tir.Schedule:
    """A schedule of the same kernel with the annotated nests computed in registers."""
    func = sch.mod["main"]
    found: list[tirx.For] = []

    def rewrite(loop: tirx.For) -> Any:
        if TRANSPOSE not in loop.annotations:
            return loop
        found.append(loop)
        return _transposed(loop)

    body = tvm_ffi.structural_map(func.body, (tirx.For, rewrite))
    if not found:
        return sch
    return s_tir.Schedule(IRModule({"main": s_tir.renew_defs(func.with_body(body))}))


def _plain(loop: tirx.For) -> tirx.For:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body)


def _transposed(loop: tirx.For) -> Any:
    inner = loop.body
    realize = inner.body
    block = realize.block
    values = dict(zip((it.var for it in block.iter_vars), realize.iter_values, strict=True))
    store = substitute(block.body, values)
    lanes, depth = int(inner.extent), int(loop.extent)
    condition, load = _guarded_load(store.value)
    # Scheduling narrows the inner loop where there are fewer elements than lanes: blocks are only
    # halved down to single elements in squares whose side is a power of two.
    is_square = lanes & (lanes - 1) == 0 and depth >= lanes
    if load is None or not is_square or not _is_transpose(store, load, loop, inner):
        return _plain(loop)
    steps = [_in_registers(store, load, loop.loop_var, inner.loop_var, lanes, depth // lanes)]
    if depth % lanes:
        steps.append(_one_by_one(loop, depth // lanes * lanes))
    fast: Any = tirx.SeqStmt(steps) if len(steps) > 1 else steps[0]
    if condition is None:
        return fast
    # Conditions guard what lies behind the end: where the last lane is inside, all are.
    at_last = substitute(condition, {inner.loop_var: tirx.const(lanes - 1, inner.loop_var.ty)})
    if loop.loop_var in variables(at_last):
        return _plain(loop)
    return tirx.IfThenElse(at_last, fast, _one_by_one(loop, 0))


def _guarded_load(value: Any) -> tuple[Any, Any]:
    """The condition and the load of `if_then_else(condition, load, constant)`, or of a load."""
    if isinstance(value, ir.TensorLoad):
        return None, value
    if isinstance(value, ir.Call) and is_conditional(value):
        condition, load, other = value.args
        if isinstance(load, ir.TensorLoad) and isinstance(other, tirx.FloatImm):
            return condition, load
    return None, None


def _is_transpose(store: Any, load: Any, outer: tirx.For, inner: tirx.For) -> bool:
    def moves_by_one(indices: Any, var: Any) -> bool:
        *before, last = indices
        if any(var in variables(index) for index in before):
            return False
        step = sym.Analyzer().simplify(substitute(last, {var: var + 1}) - last)
        return isinstance(step, tirx.IntImm) and int(step) == 1

    return moves_by_one(store.indices, inner.loop_var) and moves_by_one(
        load.indices, outer.loop_var
    )


def _one_by_one(loop: tirx.For, begin: int) -> tirx.For:
    """The nest from iteration `begin` on, with definitions of its own."""
    inner, realize = loop.body, loop.body.body
    block = realize.block
    var, lane = (tirx.Var(one.loop_var.name, one.loop_var.ty) for one in (loop, inner))
    fresh = {it.var: tirx.Var(it.var.name, it.var.ty) for it in block.iter_vars}

    def renew(node: Any) -> Any:
        return substitute(node, fresh)

    copy = s_tir.SBlock(
        [tirx.IterVar(it.dom, fresh[it.var], it.iter_type) for it in block.iter_vars],
        [renew(region) for region in block.reads],
        [renew(region) for region in block.writes],
        f"{block.name_hint}_rest",
        renew(block.body),
        annotations=block.annotations,
    )
    moved = {loop.loop_var: var + begin, inner.loop_var: lane}
    bound = [substitute(value, moved) for value in realize.iter_values]
    body = s_tir.SBlockRealize(bound, realize.predicate, copy)
    serial = tirx.For(lane, inner.min, inner.extent, ForKind.SERIAL, body)
    extent = tirx.const(int(loop.extent) - begin, var.ty)
    return tirx.For(var, loop.min, extent, ForKind.SERIAL, serial)


def _in_registers(
    store: Any, load: Any, outer: Any, lane: Any, lanes: int, tiles: int
) -> s_tir.SBlockRealize:
    dtype = store.buffer.dtype
    held = [tirx.decl_buffer((lanes * lanes,), dtype, f"tile_{i}") for i in range(2)]
    tile = tirx.Var(f"{outer.name}_t", outer.ty)

    def vector(buffer: Any, indices: Any) -> list[Any]:
        *before, last = indices
        return [*before, tirx.Ramp(last, tirx.const(1, last.ty), lanes)]

    def slot(buffer: Any, row: int) -> list[Any]:
        return vector(buffer, [tirx.const(row * lanes, "int32")])

    steps: list[Any] = []
    for row in range(lanes):
        at = {outer: tile * lanes, lane: tirx.const(row, lane.ty)}
        indices = [substitute(index, at) for index in load.indices]
        value = tirx.BufferLoad(load.source, vector(load.source, indices))
        steps.append(tirx.BufferStore(held[0], value, slot(held[0], row)))
    source, target = held
    size = 1
    while size < lanes:
        for row in (r for r in range(lanes) if not r & size):
            pair = [tirx.BufferLoad(source, slot(source, r)) for r in (row, row + size)]
            upper = [j if not j & size else lanes + j - size for j in range(lanes)]
            lower = [j + size if not j & size else lanes + j for j in range(lanes)]
            for position, order in ((row, upper), (row + size, lower)):
                mixed = tirx.Shuffle(pair, [tirx.const(j, "int32") for j in order])
                steps.append(tirx.BufferStore(target, mixed, slot(target, position)))
        source, target = target, source
        size *= 2
    for row in range(lanes):
        at = {outer: tile * lanes + row, lane: tirx.const(0, lane.ty)}
        indices = [substitute(index, at) for index in store.indices]
        value = tirx.BufferLoad(source, slot(source, row))
        steps.append(tirx.BufferStore(store.buffer, value, vector(store.buffer, indices)))
    loop = tirx.For(
        tile,
        tirx.const(0, tile.ty),
        tirx.const(tiles, tile.ty),
        ForKind.SERIAL,
        tirx.SeqStmt(steps),
    )

    def whole(buffer: Any) -> Any:
        return tirx.BufferRegion(buffer, [ir.Range.from_min_extent(0, d) for d in buffer.shape])

    block = s_tir.SBlock(
        [], [whole(load.source)], [whole(store.buffer)], "transposed", loop, alloc_buffers=held
    )
    return s_tir.SBlockRealize([], True, block)  # noqa: FBT003 - the predicate
