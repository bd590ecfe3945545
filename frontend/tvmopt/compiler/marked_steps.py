"""Loops some of whose steps are marked: products of 8-bit integers with a part that does not fit.

A step asks once whether it is marked, for all products of its register tile.
"""

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

from tvmopt.compiler.placeholders import are_neighbours, is_call, lanes_of, operator, vector

DOT_OCTS = "tvmopt.dot_octs"
"""`(a0, a1, b0, b1, mark, e0, e1) -> int32`: `DOT_FITTING_OCTS` with `b`, and with `e`, which is
zeros where `mark` is 0."""

DOT_MARKED_QUADS = "tvmopt.dot_marked_quads"
"""`(a, b, mark, e) -> int32`: the same of `DOT_NARROW_QUADS`."""

DOT_FITTING_OCTS = "tvmopt.dot_fitting_octs"
"""`(a0, a1, b0, b1) -> int32`: the sum of two `DOT_NARROW_QUADS`, whose sums fit in int16."""

DOT_NARROW_QUADS = "tvmopt.dot_narrow_quads"

READ_AGAIN = "tvmopt.read_again"
"""`address -> int32`: what lies there, which is read although it has been before.

Numbers that a rare branch shares with what is before it would be kept in registers for it.
"""

QUAD = "tvmopt.quad"


def split_marked_steps(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Innermost loops with marks get a branch for the steps that have one.

    Elsewhere all steps are taken as marked. To be run before marks are found to be common
    subexpressions, which would be defined inside of the loops.
    """
    body = tvm_ffi.structural_map(func.body, (tirx.For, _split))
    body = tvm_ffi.structural_map(body, (ir.Call, _both))
    return func if body.same_as(func.body) else func.with_body(body)


def _split(loop: tirx.For) -> tirx.For:
    marks = _marks_in(loop.body)
    if not marks or not _only_sums(loop.body):
        return loop
    together, *others = marks
    for mark in others:
        together = together | mark
    fitting = tvm_ffi.structural_map(loop.body, (ir.Call, _fitting))
    excess = tvm_ffi.structural_map(
        loop.body, [(ir.Call, _excess), (tirx.Evaluate, lambda _: tirx.Evaluate(0))]
    )
    rarely = tirx.IfThenElse(together != tirx.const(0, "int32"), excess, None)
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        tirx.SeqStmt([fitting, rarely]),
        loop.thread_binding,
        loop.annotations,
        loop.step,
    )


def _only_sums(statement: Any) -> bool:
    """Whether all that is stored are sums that go on, so that the excess can be added later."""
    others: list[Any] = []

    def note(store: tirx.BufferStore) -> None:
        value = store.value
        goes_on = isinstance(value, tirx.Add) and any(
            _is_marked(one) and _reads(other, store)
            for one, other in ((value.a, value.b), (value.b, value.a))
        )
        if not goes_on:
            others.append(store)

    tvm_ffi.structural_walk(statement, [(tirx.BufferStore, note)])
    return not others


def _reads(value: Any, store: tirx.BufferStore) -> bool:
    """Whether a value is what a statement is about to overwrite."""
    return (
        isinstance(value, ir.TensorLoad)
        and value.source.same_as(store.buffer)
        and tvm_ffi.structural_equal(list(value.indices), list(store.indices))
    )


def _marks_in(statement: Any) -> list[Any]:
    """The marks of a statement, as scalars, each once."""
    found: list[Any] = []

    def note(call: ir.Call) -> None:
        if not _is_marked(call):
            return
        _, _, mark, _ = _parts(call)
        mark = _scalar(mark)
        if not any(tvm_ffi.structural_equal(mark, other) for other in found):
            found.append(mark)

    tvm_ffi.structural_walk(statement, [(ir.Call, note)])
    return found


def _parts(call: ir.Call) -> tuple[list[Any], list[Any], Any, list[Any]]:
    """Activations, fitting weights, the mark, and the excess."""
    size = 2 if is_call(call, DOT_OCTS) else 1
    operands = list(call.args)
    return operands[:size], operands[size : 2 * size], operands[2 * size], operands[2 * size + 1 :]


def _fitting(call: ir.Call) -> Any:
    if not _is_marked(call):
        return call
    activations, weights, _, _ = _parts(call)
    return _dot(*activations, *weights)


def _excess(call: ir.Call) -> Any:
    if not _is_marked(call):
        return call
    activations, _, _, excess = _parts(call)
    return _dot(*map(_again, activations), *excess)


def _both(call: ir.Call) -> Any:
    if not _is_marked(call):
        return call
    activations, weights, _, excess = _parts(call)
    return _dot(*activations, *weights) + _dot(*activations, *excess)


def _dot(*operands: Any) -> ir.Call:
    name = DOT_NARROW_QUADS if len(operands) == len("ab") else DOT_FITTING_OCTS
    type_ = ir.PrimType(vector("int32", lanes_of(operands[0])))
    return ir.Call(operator(name), list(operands), ret_ty=type_)


def _again(value: Any) -> Any:
    quad = _scalar(value)
    if is_call(quad, QUAD) and are_neighbours(*quad.args):
        quad = quad.args[0]
    elif not isinstance(quad, ir.TensorLoad):
        return value
    address = tirx.address_of(quad)
    call = ir.Call(operator(READ_AGAIN), [address], ret_ty=ir.PrimType("int32"))
    return tirx.Broadcast(call, value.lanes) if isinstance(value, tirx.Broadcast) else call


def _scalar(value: Any) -> Any:
    return value.value if isinstance(value, tirx.Broadcast) else value


def _is_marked(call: Any) -> bool:
    return is_call(call, DOT_OCTS) or is_call(call, DOT_MARKED_QUADS)
