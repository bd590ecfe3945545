"""Vector loops with tails: a loop of any extent becomes whole vectors and one shorter vector.

TVM's `vectorize` wants an extent that is a constant, becomes one instruction and has no predicate.
Schedule rules therefore annotate the serial loop they want vectorized, and `vectorize_annotated`
rewrites the kernel at the end. A vector of any length is fine for LLVM: `<5 x float>` is computed
in one register.

* `LANES` on a data-parallel loop, which need not be innermost: the lanes move inside the loops and
  into each statement of the body, so that `for w: (init; for k: update)` updates a vector of `w`.
* `REDUCE_LANES` on a reduction loop: each lane has its own partial result; they are combined at the
  end, pairwise. The order of additions differs from the sequential one; the error is smaller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, sym, tirx
from tvm.tirx import ForKind, IterVar

from tvmopt_schedules.cpu.code.flatten import flatten_accesses
from tvmopt_schedules.cpu.code.terms import substitute, variables, with_body

LANES = "tvmopt.lanes"
"""Annotation of a data-parallel loop: the lanes of one vector."""

REDUCE_LANES = "tvmopt.reduce_lanes"
"""Annotation of the outermost of a block's reduction loops, which nest without anything between."""

BREAKS = "tvmopt.breaks"
"""Annotation of a data-parallel loop: iterations, in ascending order, before which it is cut.

Beside LANES, no vector spans a cut.
"""

ELEMENTS = "tvmopt.elements"
"""Annotation beside the first two: the loop over vectors carries it on, as elements of one step."""

ACCUMULATORS = 4
"""Vectors of partial results per reduction: an addition takes 4 cycles and two start in each."""


def vectorize_annotated(sch: s_tir.Schedule) -> s_tir.Schedule:
    """A schedule of the same kernel with the annotated loops vectorized."""
    func = flatten_accesses(sch.mod["main"])
    root = func.body
    assert isinstance(root, s_tir.SBlockRealize), "a schedulable function has a root block"
    body = _rewrite(root.block.body)
    if body is root.block.body:
        return sch
    block = with_body(root.block, body)
    realize = s_tir.SBlockRealize(root.iter_values, root.predicate, block)
    return s_tir.Schedule(IRModule({"main": s_tir.renew_defs(func.with_body(realize))}))


def _rewrite(stmt: Any) -> Any:
    if isinstance(stmt, tirx.SeqStmt):
        parts = [_rewrite(part) for part in stmt.seq]
        if all(new is old for new, old in zip(parts, stmt.seq, strict=True)):
            return stmt
        return tirx.SeqStmt(parts)
    if isinstance(stmt, s_tir.SBlockRealize):
        body = _rewrite(stmt.block.body)
        if body is stmt.block.body:
            return stmt
        block = with_body(stmt.block, body)
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, block)
    if not isinstance(stmt, tirx.For):
        return stmt
    if REDUCE_LANES in stmt.annotations:
        return _vector_reduction(stmt)
    body = _rewrite(stmt.body)
    if LANES in stmt.annotations or BREAKS in stmt.annotations:
        return _cut_loop(stmt, body)
    return stmt if body is stmt.body else _loop(stmt, body)


def _loop(loop: tirx.For, body: Any) -> tirx.For:
    kept = {k: v for k, v in loop.annotations.items() if k not in (LANES, REDUCE_LANES, BREAKS)}
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=kept)


def _const(value: int, like: Any) -> Any:
    return tirx.const(value, like.ty)


def _fresh(name: str, like: Any) -> Any:
    return tirx.Var(name, like.ty)


# Data-parallel loops


def _cut_loop(loop: tirx.For, body: Any) -> Any:
    lanes, extent = int(loop.annotations.get(LANES, 0)), int(loop.extent)
    cuts: Any = loop.annotations.get(BREAKS, [])
    breaks = [int(at) for at in cuts]
    bounds = [0, *(at for at in breaks if 0 < at < extent), extent]
    parts: list[Any] = []
    for begin, end in pairwise(bounds):
        if lanes:
            parts += _vector_range(loop, body, begin, end, lanes)
        else:
            parts.append(_range(loop, body, begin, end))
    return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)


def _range(loop: tirx.For, body: Any, begin: int, end: int) -> Any:
    """Iterations from `begin` to `end`, one at a time."""
    var = _fresh(loop.loop_var.name, loop.loop_var)
    inner = substitute_bindings(_clone_all(body), {loop.loop_var: var + begin})
    return tirx.For(var, _const(0, var), _const(end - begin, var), loop.kind, inner)


def _vector_range(loop: tirx.For, body: Any, begin: int, end: int, lanes: int) -> list[Any]:
    """Iterations from `begin` to `end`: a loop over whole vectors, then the rest."""
    var = loop.loop_var
    whole, rest = divmod(end - begin, lanes)
    parts: list[Any] = []
    if whole == 1:
        parts.append(_spread(body, var, _const(begin, var), lanes))
    elif whole:
        outer = _fresh(f"{var.name}_v", var)
        base = outer * lanes + begin
        inner = _spread(body, var, base, lanes)
        extent = _const(whole, var)
        kept = {ELEMENTS: lanes} if ELEMENTS in loop.annotations else {}
        zero = _const(0, var)
        parts.append(tirx.For(outer, zero, extent, loop.kind, inner, annotations=kept))
    if rest:
        parts.append(_spread(body, var, _const(end - rest, var), rest))
    return parts


def _spread(stmt: Any, var: Any, base: Any, lanes: int) -> Any:
    """`stmt` for `var` = base .. base + lanes - 1, as vectors at its leaves."""
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_spread(part, var, base, lanes) for part in stmt.seq])
    if isinstance(stmt, tirx.For) and stmt.kind in (ForKind.SERIAL, ForKind.UNROLLED):
        inner = _fresh(stmt.loop_var.name, stmt.loop_var)
        body = substitute_bindings(stmt.body, {stmt.loop_var: inner})
        body = _spread(body, var, base, lanes)
        return tirx.For(inner, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations)
    if lanes == 1 or not _depends(stmt, var):
        return substitute_bindings(_clone(stmt), {var: base})
    lane = _fresh(f"{var.name}_l", var)
    body = substitute_bindings(_clone(stmt), {var: base + lane})
    return tirx.For(lane, _const(0, var), _const(lanes, var), ForKind.VECTORIZED, body)


def _clone_all(stmt: Any) -> Any:
    """A copy of a loop nest with loop variables, axes and buffers of its own."""
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_clone_all(part) for part in stmt.seq])
    if isinstance(stmt, tirx.For):
        var = _fresh(stmt.loop_var.name, stmt.loop_var)
        body = substitute_bindings(_clone_all(stmt.body), {stmt.loop_var: var})
        return tirx.For(var, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations)
    return _clone(stmt)


def _clone(stmt: Any) -> Any:
    """A copy with axes and buffers of its own: a definition may stand only once in a kernel."""
    if not isinstance(stmt, s_tir.SBlockRealize):
        return stmt
    block = stmt.block
    fresh: dict[Any, Any] = {it.var: _fresh(it.var.name, it.var) for it in block.iter_vars}
    for buffer in block.alloc_buffers:
        fresh[buffer] = tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name)

    def renew(node: Any) -> Any:
        return None if node is None else substitute(node, fresh)

    copy = s_tir.SBlock(
        [IterVar(it.dom, fresh[it.var], it.iter_type) for it in block.iter_vars],
        renew(block.reads),
        renew(block.writes),
        block.name_hint,
        renew(block.body),
        renew(block.init),
        [fresh[buffer] for buffer in block.alloc_buffers],
        block.match_buffers,
        block.annotations,
    )
    return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, copy)


def _depends(stmt: Any, var: Any) -> bool:
    if isinstance(stmt, s_tir.SBlockRealize):
        return any(var in variables(value) for value in stmt.iter_values)
    return True


def substitute_bindings(stmt: Any, values: dict[Any, Any]) -> Any:
    """Replaces loop variables where blocks are bound to them; block bodies do not see them."""
    if isinstance(stmt, s_tir.SBlockRealize):
        analyzer = sym.Analyzer()
        bound = [analyzer.simplify(substitute(value, values)) for value in stmt.iter_values]
        predicate = analyzer.simplify(substitute(stmt.predicate, values))
        return s_tir.SBlockRealize(bound, predicate, stmt.block)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([substitute_bindings(part, values) for part in stmt.seq])
    if isinstance(stmt, tirx.For):
        body = substitute_bindings(stmt.body, values)
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations
        )
    return substitute(stmt, values)


# Reductions


@dataclass(frozen=True)
class Reducer:
    """A block that computes `target = combine(target, term)`, starting from `identity`."""

    store: tirx.BufferStore
    term: Any
    identity: Any
    combine: Callable[[Any, Any], Any]


_COMBINERS: Sequence[tuple[type, float | None]] = (
    (tirx.Add, 0.0),
    (tirx.Mul, 1.0),
    (tirx.Max, None),
    (tirx.Min, None),
)


def match_reducer(block: s_tir.SBlock) -> Reducer | None:
    """Reads a sum, product, maximum or minimum; None for other blocks."""
    store, init = block.body, block.init
    if not isinstance(store, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
        return None
    if not isinstance(init.value, (tirx.IntImm, tirx.FloatImm)):
        return None
    for combine, identity in _COMBINERS:
        if not isinstance(store.value, combine):
            continue
        if identity is not None and float(init.value.value) != identity:
            return None
        for own, term in ((store.value.a, store.value.b), (store.value.b, store.value.a)):
            if _is_load(own, store) and not _reads(term, store.buffer):
                return Reducer(store, term, init.value, combine)
    return None


def _is_load(expr: Any, store: tirx.BufferStore) -> bool:
    if not isinstance(expr, ir.TensorLoad) or not expr.source.same_as(store.buffer):
        return False
    return tvm_ffi.structural_equal(expr.indices, store.indices)


def _reads(expr: Any, buffer: Any) -> bool:
    return buffer in variables(expr)


def _vector_reduction(loop: tirx.For) -> Any:
    nest, realize = _perfect_nest(loop)
    *outer, inner = nest
    reducer = match_reducer(realize.block)
    assert reducer is not None, f"block {realize.block.name_hint} is no reduction that has lanes"
    reduced = {it.var for it in realize.block.iter_vars if it.iter_type == IterVar.CommReduce}
    lanes, extent, var = int(loop.annotations[REDUCE_LANES]), int(inner.extent), inner.loop_var
    width = min(extent, lanes * max(1, min(ACCUMULATORS, extent // lanes)))
    partial = tirx.decl_buffer(
        (width,), reducer.identity.ty.dtype, f"{realize.block.name_hint}_lanes"
    )
    axes = zip(realize.block.iter_vars, realize.iter_values, strict=True)
    term = substitute(reducer.term, {it.var: value for it, value in axes if it.var in reduced})

    def accumulate(base: Any, count: int) -> Any:
        lane = _fresh("lane", var)
        value = substitute(term, {var: base + lane})
        combined = reducer.combine(tirx.BufferLoad(partial, [lane]), value)
        return _vector(lane, count, tirx.BufferStore(partial, combined, [lane]))

    whole, rest = divmod(extent, width)
    step = _fresh(f"{var.name}_v", var)
    main = accumulate(step * width, width)
    kept = {ELEMENTS: width} if ELEMENTS in loop.annotations else {}
    steps, zero = _const(whole, var), _const(0, var)
    row: list[Any] = [tirx.For(step, zero, steps, ForKind.SERIAL, main, annotations=kept)]
    row += [
        accumulate(_const(done, var), min(lanes, extent - done))
        for done in range(extent - rest, extent, lanes)
    ]
    body: Any = tirx.SeqStmt(row) if len(row) > 1 else row[0]
    for one in reversed(outer):
        body = tirx.For(one.loop_var, one.min, one.extent, ForKind.SERIAL, body)
    lane = _fresh("lane", var)
    start = _vector(lane, width, tirx.BufferStore(partial, reducer.identity, [lane]))
    total = tirx.BufferLoad(partial, [_const(0, var)])
    end = tirx.BufferStore(reducer.store.buffer, total, reducer.store.indices)
    whole_row = tirx.SeqStmt([start, body, *_fold(reducer, partial, width, var), end])
    return _spatial_block(realize, reduced, whole_row, partial)


def _perfect_nest(loop: tirx.For) -> tuple[list[tirx.For], s_tir.SBlockRealize]:
    nest = [loop]
    while isinstance(nest[-1].body, tirx.For):
        nest.append(nest[-1].body)
    realize = nest[-1].body
    assert isinstance(realize, s_tir.SBlockRealize), "reduction loops nest around their block"
    return nest, realize


def _vector(lane: Any, count: int, body: Any) -> Any:
    kind = ForKind.VECTORIZED if count > 1 else ForKind.SERIAL
    return tirx.For(lane, _const(0, lane), _const(count, lane), kind, body)


def _fold(reducer: Reducer, partial: Any, width: int, like: Any) -> list[Any]:
    """Combines the upper half of the lanes with the lower half until one is left."""
    steps: list[Any] = []
    while width > 1:
        half = width // 2
        lane = _fresh("lane", like)
        upper = tirx.BufferLoad(partial, [lane + (width - half)])
        combined = reducer.combine(tirx.BufferLoad(partial, [lane]), upper)
        steps.append(_vector(lane, half, tirx.BufferStore(partial, combined, [lane])))
        width -= half
    return steps


def _spatial_block(realize: Any, reduced: set[Any], body: Any, partial: Any) -> Any:
    """The reduction block as one that computes its result whole, without reduction axes."""
    block = realize.block
    kept = [i for i, it in enumerate(block.iter_vars) if it.var not in reduced]
    whole = {it.var: it.dom for it in block.iter_vars if it.var in reduced}
    reads = [_widen(region, whole) for region in block.reads]
    new = s_tir.SBlock(
        [block.iter_vars[i] for i in kept],
        reads,
        block.writes,
        block.name_hint,
        body,
        alloc_buffers=[*block.alloc_buffers, partial],
        annotations=block.annotations,
    )
    return s_tir.SBlockRealize([realize.iter_values[i] for i in kept], realize.predicate, new)


def _widen(region: Any, whole: dict[Any, Any]) -> Any:
    """The region that is read when the reduction variables take all their values."""
    if not any(var in variables(r.min) for r in region.region for var in whole):
        return region
    ranges = [
        ir.Range.from_min_extent(0, extent)
        if any(var in variables(old.min) for var in whole)
        else old
        for old, extent in zip(region.region, region.source.shape, strict=True)
    ]
    return tirx.BufferRegion(region.source, ranges)
