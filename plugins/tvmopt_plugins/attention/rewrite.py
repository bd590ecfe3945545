"""`softmax(f(q @ k)) @ v` becomes a call of an attention kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import tvm
from tvm import relax, te, tirx

from tvmopt import CompileContext
from tvmopt.rewriting import (
    Graph,
    attrs_of,
    dtype_of,
    is_op,
    rebuild,
    rounded_first,
    scalar_value,
    shape_of,
    stored_form,
    untransposed,
)
from tvmopt_plugins.attention.scores import keys_ahead, read_scores
from tvmopt_schedules.cpu.compute.attention import IsEmpty, Operand, attention
from tvmopt_schedules.cpu.machine import Machine

if TYPE_CHECKING:
    from tvmopt_plugins.attention import FuseAttention


@dataclass(frozen=True)
class _Stored:
    """A factor of a product as it is stored.

    Attributes:
        expr: before transposes and repetition.
        axes: the transposes as one, in the manner of `numpy.transpose`.
        repeats: how often each head stands in the factor, one after the other.
    """

    expr: relax.Expr
    axes: tuple[int, ...]
    repeats: int = 1

    @property
    def shape(self) -> list[int]:
        stored = shape_of(self.expr) or ()
        return [stored[axis] for axis in self.axes]


def fuse_attention(mod: tvm.IRModule, source: "FuseAttention", ctx: CompileContext) -> tvm.IRModule:
    """Rewrites the attentions of `main` for the backend's registers and caches."""
    machine = Machine.of(ctx.request.backend.capabilities)

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        return _rewrite(value, graph, machine)

    return rebuild(mod, rewrite, source=source, ctx=ctx)


def _rewrite(value: relax.Expr, graph: Graph, machine: Machine) -> relax.Expr | None:
    if not is_op(value, "relax.matmul"):
        return None
    shape = shape_of(value)
    rounding, weights = _before_rounding(value.args[0], graph)
    held, softmax, guard = _softmax(weights, graph)
    held = [*rounding, *held]
    if softmax is None:
        return None
    scores = softmax.args[0]
    scores_shape = shape_of(scores)
    if shape is None or scores_shape is None or 0 in scores_shape:
        return _left(graph, "its shape is not static")
    if dtype_of(value) != "float32" or dtype_of(scores) != "float32":
        return _left(graph, f"{dtype_of(scores)} is not float32")
    if int(attrs_of(softmax).axis) % len(scores_shape) != len(scores_shape) - 1:
        return _left(graph, "its softmax does not run over the keys")
    if any(graph.uses(var) != uses or graph.is_output(var) for var, uses in held):
        return _left(graph, "its weights have another reader")
    found, score = read_scores(scores, graph)
    if found.why or found.product is None:
        return _left(graph, found.why)
    factors = [*found.product.args, value.args[1]]
    if any(len(shape_of(factor) or ()) < 2 for factor in factors):
        return _left(graph, "an operand is a vector, or its shape is not static")
    narrow = [_bfloat16_of(factor, graph) for factor in factors]
    rounded = [one for one in narrow if one is not None]
    if 0 < len(rounded) + bool(rounding) <= len(factors):
        return _left(graph, "some of what its products multiply is bfloat16, some float32")
    factors = rounded if rounded else factors
    lead = list(shape[:-2])
    if list(scores_shape[:-2]) != lead:
        return _left(graph, "the values have heads that the scores do not have")
    q = _stored(factors[0], graph, repeated=False)
    k, v = (_stored(factor, graph, repeated=True) for factor in factors[1:])
    group = _group(lead, k, v)
    if group is None:
        k, v = (_stored(factor, graph, repeated=False) for factor in factors[1:])
        group = _group(lead, k, v) or 1

    def define(*tensors: te.Tensor) -> te.Tensor:
        operands = [
            Operand(tensor, one.axes) for tensor, one in zip(tensors, (q, k, v), strict=False)
        ]
        return attention(
            *operands,
            lead=lead,
            group=group,
            scale=found.scale,
            score=lambda product, index: score(product, index, tensors[3:]),
            machine=machine,
            is_empty=_is_empty(guard, tensors[-1]),
            ahead=keys_ahead(found),
        )

    graph.absorb(*found.chain, *(var for var, _ in reversed(held)))
    graph.passed(f"attention of {prod(lead)} heads became one kernel")
    return graph.bb.call_te(
        define,
        q.expr,
        k.expr,
        v.expr,
        *found.operands,
        *([guard] if isinstance(guard, relax.Expr) else []),
        primfunc_name_hint="attention",
        primfunc_attrs={"tvmopt.fusion": "anchor-moved"},
    )


def _before_rounding(
    weights: relax.Expr, graph: Graph
) -> tuple[list[tuple[relax.Expr, int]], relax.Expr]:
    """The variables that round weights to bfloat16, with their uses, and what they round."""
    narrow = _bfloat16_of(weights, graph)
    rounding = graph.producer(narrow)
    if narrow is None or not is_op(rounding, "relax.astype"):
        return [], weights
    return [(weights, 1), (narrow, 1)], rounding.args[0]


def _bfloat16_of(factor: relax.Expr, graph: Graph) -> relax.Expr | None:
    narrow = stored_form(factor, graph)
    return narrow if narrow is not None and dtype_of(narrow) == "bfloat16" else None


def _left(graph: Graph, why: str) -> None:
    graph.missed(f"attention left as it is: {why}")


def _softmax(
    weights: relax.Expr, graph: Graph
) -> tuple[list[tuple[relax.Expr, int]], relax.Call | None, relax.Expr | Literal["isnan"] | None]:
    """The softmax that makes the weights, the variables up to it with their uses, and a guard.

    Exporters guard rows of which all keys are masked out, with a condition per row or with
    `where(isnan(w), 0, w)`: those rows become zeros.
    """
    value = graph.producer(weights)
    if is_op(value, "relax.nn.softmax"):
        return [(weights, 1)], value, None
    if not is_op(value, "relax.where") or scalar_value(value.args[1]) != 0:
        return [], None, None
    condition, _, inner = value.args
    softmax, test = graph.producer(inner), graph.producer(condition)
    if not is_op(softmax, "relax.nn.softmax") or shape_of(inner) != shape_of(weights):
        return [], None, None
    if is_op(test, "relax.isnan") and test.args[0].same_as(inner):
        return [(weights, 1), (condition, 1), (inner, 2)], softmax, "isnan"
    shape = shape_of(condition)
    if scalar_value(condition) is False:
        return [(weights, 1), (inner, 1)], softmax, None
    if shape is None or (shape and shape[-1] != 1):
        return [], None, None
    return [(weights, 1), (inner, 1)], softmax, condition


def _is_empty(guard: relax.Expr | Literal["isnan"] | None, tensor: te.Tensor) -> IsEmpty | None:
    """What a guard says of a row; `tensor` holds it where it is an operand."""
    if guard is None:
        return None
    if isinstance(guard, str):
        return lambda total, _index: tirx.Not(total > 0)  # exponentials sum to 1 at least, or NaN

    def condition(_total: Any, index: Sequence[Any]) -> Any:
        aligned = [*index, 0][len(index) + 1 - len(tensor.shape) :]
        return tensor(
            *(0 if int(size) == 1 else at for at, size in zip(aligned, tensor.shape, strict=True))
        )

    return condition


def _stored(factor: relax.Expr, graph: Graph, *, repeated: bool) -> _Stored:
    """What a factor is made of by transposes and, if asked for, by repeating heads."""
    expr, axes = untransposed(rounded_first(factor, graph), graph)
    rank = len(axes)
    source = _before_repeat(expr, graph) if repeated and rank > 2 else None
    if source is None or axes[rank - 3] != source[1]:
        return _Stored(expr, axes)
    before, head_axis, repeats = source
    shape = list(shape_of(expr) or ())
    shape[head_axis] //= repeats
    inner, inner_axes = untransposed(graph.emit(relax.op.reshape(before, shape)), graph)
    return _Stored(inner, tuple(inner_axes[axis] for axis in axes), repeats)


def _before_repeat(expr: relax.Expr, graph: Graph) -> tuple[relax.Expr, int, int] | None:
    """`reshape(broadcast_to(x))` that repeats the elements of one axis: x, the axis, how often.

    Where that is rounded, `x` is instead.
    """
    reshape = graph.producer(expr)
    if is_op(reshape, "relax.astype"):
        source = _before_repeat(reshape.args[0], graph)
        return source and (graph.emit(relax.op.astype(source[0], dtype_of(expr))), *source[1:])
    if not is_op(reshape, "relax.reshape"):
        return None
    broadcast = graph.producer(reshape.args[0])
    if not is_op(broadcast, "relax.broadcast_to"):
        return None
    before, spread, after = (shape_of(one) for one in (broadcast.args[0], reshape.args[0], expr))
    if before is None or spread is None or after is None or len(before) != len(spread):
        return None
    changed = [axis for axis in range(len(spread)) if before[axis] != spread[axis]]
    if len(changed) != 1 or before[changed[0]] != 1 or changed[0] == 0:
        return None
    axis = changed[0] - 1
    joined = [*spread[:axis], spread[axis] * spread[axis + 1], *spread[axis + 2 :]]
    return (broadcast.args[0], axis, spread[axis + 1]) if joined == list(after) else None


def _group(lead: Sequence[int], k: _Stored, v: _Stored) -> int | None:
    """Query heads in a row that share one head of keys and values; None if the two disagree."""
    if k.repeats != v.repeats:
        return None
    if k.repeats > 1:
        heads = [prod(one.shape[:-2]) * k.repeats for one in (k, v)]
        return k.repeats if heads == [prod(lead)] * 2 else None
    group = 1
    for back, size in enumerate(reversed(lead), start=3):
        if any(len(one.shape) >= back and one.shape[-back] != 1 for one in (k, v)):
            break
        group *= size
    return group
