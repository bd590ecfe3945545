"""Transcendentals of transcendentals: the inner result is held in memory, one vector long.

A polynomial reads its argument many times. Bound to a variable, the argument is computed once, but
LLVM code generation in TVM 0.27 hands every binding to an arithmetic analyzer that puts the values
of other bindings into it: `tanh(log(1 + exp(x)))` took six minutes to compile. What is stored in a
buffer is not looked through. LLVM keeps the buffer in a register.
"""

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.tirx import ForKind, IterVar

from tvmopt_schedules.cpu.code.terms import is_conditional, with_body

IsMath = Callable[[ir.Call], bool]


def hold_nested(func: tirx.PrimFunc, is_math: IsMath) -> tirx.PrimFunc:
    """Stores arguments of `is_math` calls that contain such calls in buffers of one vector."""
    root = func.body
    if not isinstance(root, s_tir.SBlockRealize) or not _has_nested(root, is_math):
        return func
    body = _visit(root.block.body, is_math)
    realize = s_tir.SBlockRealize(root.iter_values, root.predicate, with_body(root.block, body))
    return func.with_body(realize)


def contains(expr: Any, is_math: IsMath) -> bool:
    """Whether a call that `is_math` accepts is part of the expression."""
    found: list[Any] = []

    def call(node: ir.Call) -> None:
        if is_math(node):
            found.append(node)

    tvm_ffi.structural_walk(expr, [(ir.Call, call)])
    return bool(found)


def _has_nested(node: Any, is_math: IsMath) -> bool:
    return contains(node, lambda call: is_math(call) and contains(call.args[0], is_math))


def _visit(stmt: Any, is_math: IsMath) -> Any:
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_visit(part, is_math) for part in stmt.seq])
    if isinstance(stmt, tirx.For):
        if stmt.kind == ForKind.VECTORIZED:
            return _hold_vector(stmt, is_math)
        body = _visit(stmt.body, is_math)
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations
        )
    if isinstance(stmt, s_tir.SBlockRealize):
        if isinstance(stmt.block.body, tirx.BufferStore):
            return _hold_scalar(stmt, is_math)
        body = _visit(stmt.block.body, is_math)
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, with_body(stmt.block, body))
    return stmt


def _hold_vector(loop: tirx.For, is_math: IsMath) -> Any:
    """`for lane in vectorized: block` with the block's buffers around the loop."""
    realize = loop.body
    if not isinstance(realize, s_tir.SBlockRealize) or not _can_hold(realize.block, is_math):
        return loop
    lane = tirx.Var("lane", loop.loop_var.ty)
    body, buffers = _stores(realize.block.body, lane, int(loop.extent), is_math)
    domain = ir.Range.from_min_extent(loop.min, loop.extent)
    axis = IterVar(domain, lane, IterVar.DataPar)
    block = _replaced(realize.block, [*realize.block.iter_vars, axis], body, [])
    inner = s_tir.SBlockRealize([*realize.iter_values, loop.loop_var], realize.predicate, block)
    vector = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner)
    # TVM moves an allocation to where all accesses are. Inside the vector loop it would shrink to
    # one element; an access outside, which LLVM deletes, keeps it here.
    zero = tirx.const(0, "int32")
    anchors = [tirx.BufferStore(b, tirx.const(0, b.dtype), [zero]) for b in buffers]
    whole = tirx.SeqStmt([*anchors, vector])
    around = s_tir.SBlock([], [], [], f"{block.name_hint}_held", whole, alloc_buffers=buffers)
    return s_tir.SBlockRealize([], True, around)  # noqa: FBT003 - the predicate


def _hold_scalar(realize: s_tir.SBlockRealize, is_math: IsMath) -> Any:
    if not _can_hold(realize.block, is_math):
        return realize
    zero = tirx.const(0, "int32")
    body, buffers = _stores(realize.block.body, zero, 1, is_math)
    block = _replaced(realize.block, realize.block.iter_vars, body, buffers)
    return s_tir.SBlockRealize(realize.iter_values, realize.predicate, block)


def _can_hold(block: s_tir.SBlock, is_math: IsMath) -> bool:
    """Whether arguments may be computed before the store: no condition guards a load."""
    guarded = contains(block.body, is_conditional)
    store = isinstance(block.body, tirx.BufferStore) and block.init is None
    return store and not guarded and _has_nested(block.body, is_math)


def _stores(
    store: tirx.BufferStore, lane: Any, lanes: int, is_math: IsMath
) -> tuple[Any, list[Any]]:
    """The stores that compute nested arguments, then the original one, and their buffers."""
    steps: list[Any] = []
    buffers: list[Any] = []

    def hold(call: ir.Call) -> Any:
        if not is_math(call) or not contains(call.args[0], is_math):
            return call
        argument = call.args[0]
        buffer = tirx.decl_buffer((lanes,), argument.ty.dtype, f"held_{len(buffers)}")
        buffers.append(buffer)
        steps.append(tirx.BufferStore(buffer, argument, [lane]))
        return tirx.call_intrin(call.ty, call.op.name, tirx.BufferLoad(buffer, [lane]))

    value = tvm_ffi.structural_map(store.value, [(ir.Call, hold)])
    steps.append(tirx.BufferStore(store.buffer, value, store.indices))
    return tirx.SeqStmt(steps), buffers


def _replaced(
    block: s_tir.SBlock, axes: list[IterVar], body: Any, buffers: list[Any]
) -> s_tir.SBlock:
    return s_tir.SBlock(
        axes,
        block.reads,
        block.writes,
        block.name_hint,
        body,
        alloc_buffers=[*block.alloc_buffers, *buffers],
        annotations=block.annotations,
    )
