"""Constant factors of a convolution's or matmul's result become part of its weight."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant_value,
    dtype_of,
    is_op,
    join_names,
    shape_of,
)

_Array = np.ndarray[Any, Any]

_CONVOLUTIONS = (
    "relax.nn.conv1d",
    "relax.nn.conv2d",
    "relax.nn.conv3d",
    "relax.nn.conv1d_transpose",
    "relax.nn.conv2d_transpose",
    "relax.nn.conv3d_transpose",
)
WEIGHTED = ("relax.matmul", *_CONVOLUTIONS)
_FLOATS = ("float16", "float32", "float64")


def fold_factor(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`conv(x, w) * s = conv(x, w * s)`, `(conv(x, w) + b) * s = conv(x, w * s) + b * s`.

    `s` is a scalar or has one value per output channel; for a matmul, per column. Transposes, and
    for scalars reshapes, may stand between. The products are formed in float64 and rounded once:
    each term of the sum is off by at most 1 ulp, as it was when the sum was multiplied.
    """
    if not is_op(value, "relax.multiply") or dtype_of(value) not in _FLOATS:
        return None
    data, factor = value.args[0], constant_value(value.args[1])
    shape = shape_of(value)
    if factor is None or shape is None or shape_of(data) != shape:
        return None
    aligned = factor.reshape((1,) * (len(shape) - factor.ndim) + factor.shape)
    path = _path(data, aligned, graph)
    if path is None:
        return None
    if not np.isfinite(factor).all():
        graph.missed("the factor is not finite")
        return None
    graph.passed("multiplied into the weight before it")
    weighted = join_names(_name(path[-1]), graph.name)
    graph.name = _name(data) if len(path) > 1 else weighted
    return _scaled(data, aligned, weighted, graph)


def _path(data: relax.Expr, factor: _Array, graph: Graph) -> list[relax.Expr] | None:
    """The variables from `data` back to the weighted operator; None if the factor cannot go there.

    Says why in a remark where there is such an operator.
    """
    path: list[relax.Expr] = []
    blocked = ""
    while True:
        source = graph.producer(data)
        if graph.uses(data) != 1:
            blocked = blocked or f"the result of {_name(data)} has another consumer"
        path.append(data)
        if is_op(source, *WEIGHTED):
            blocked = blocked or _why_not(source, factor)
            break
        if is_op(source, "relax.add") and constant_value(source.args[1]) is not None:
            if shape_of(source.args[0]) != shape_of(source):
                return None
        elif is_op(source, "relax.permute_dims"):
            factor = _untransposed(source, factor)
        elif not (is_op(source, "relax.reshape") and factor.size == 1):
            return None
        elif is_op(source, "relax.reshape"):
            factor = factor.reshape((1,) * len(shape_of(source.args[0]) or ()))
        data = source.args[0]
    if blocked:
        graph.missed(blocked)
        return None
    return path


def _why_not(call: relax.Call, factor: _Array) -> str:
    """Why a weighted operator cannot take the factor; empty when it can."""
    axis = _channel_axis(call)
    if axis is None:
        return "its layout is not known"
    if any(size != 1 for at, size in enumerate(factor.shape) if at != axis % factor.ndim):
        return "the factor is not one per output channel"
    if constant_value(call.args[1]) is None:
        return "its weight is not constant"
    if is_op(call, "relax.matmul") and len(shape_of(call.args[1]) or ()) < 2:
        return "its second operand is a vector"
    if is_op(call, "relax.matmul") and len(shape_of(call.args[0]) or ()) < 2:
        return "its first operand is a vector"
    return ""


def _channel_axis(call: relax.Call) -> int | None:
    """The axis of the result that the weight's columns or filters make."""
    if is_op(call, "relax.matmul"):
        return -1
    layout: str = attrs_of(call).out_layout or attrs_of(call).data_layout
    return layout.index("C") if layout.isalpha() and layout.isupper() else None


def _scaled(data: relax.Expr, factor: _Array, weighted: str, graph: Graph) -> relax.Expr:
    """`data * factor` with the factor in the weight; `_path` has seen that this is possible.

    The weighted operator is called `weighted`, all others keep their names.
    """
    source: Any = graph.producer(data)
    if is_op(source, *WEIGHTED):
        weight = constant_value(source.args[1])
        assert weight is not None
        product = _scaled_weight(source, weight, factor.reshape(-1))
        scaled = relax.const(product, dtype_of(source.args[1]))
        return _on(source, [source.args[0], scaled, *source.args[2:]])
    before = source.args[0]
    name = weighted if is_op(graph.producer(before), *WEIGHTED) else _name(before)
    if is_op(source, "relax.add"):
        shift = constant_value(source.args[1])
        assert shift is not None
        product = (shift.astype("float64") * _fitted(factor, shift)).astype(shift.dtype)
        inner = graph.emit(_scaled(before, factor, weighted, graph), name)
        return relax.op.add(inner, relax.const(product, dtype_of(source.args[1])))
    if is_op(source, "relax.permute_dims"):
        factor = _untransposed(source, factor)
        inner = graph.emit(_scaled(before, factor, weighted, graph), name)
        return _on(source, [inner])
    factor = factor.reshape((1,) * len(shape_of(before) or ()))
    inner = graph.emit(_scaled(before, factor, weighted, graph), name)
    return _on(source, [inner, *source.args[1:]])


def _scaled_weight(call: relax.Call, weight: _Array, factor: _Array) -> _Array:
    if is_op(call, "relax.matmul"):
        by_axis = factor  # the last axis
    elif attrs_of(call).kernel_layout[:2] == "IO" and factor.size > 1:
        # [I, O / groups, ...]: input channel i belongs to group i // (I / groups).
        groups = int(attrs_of(call).groups)
        by_group = factor.reshape(groups, 1, weight.shape[1])
        by_axis = np.broadcast_to(
            by_group, (groups, weight.shape[0] // groups, weight.shape[1])
        ).reshape(weight.shape[:2] + (1,) * (weight.ndim - 2))
    else:
        axis = attrs_of(call).kernel_layout.index("O")
        by_axis = factor.reshape([-1 if at == axis else 1 for at in range(weight.ndim)])
    return (weight.astype("float64") * by_axis).astype(weight.dtype)


def _fitted(factor: _Array, shift: _Array) -> _Array:
    """The factor without leading axes that a shift of lower rank does not have."""
    extra = factor.ndim - shift.ndim
    keeps = all(size == 1 for size in factor.shape[:extra])
    return factor.reshape(factor.shape[extra:]) if extra > 0 and keeps else factor


def _untransposed(permute: relax.Call, factor: _Array) -> _Array:
    """The factor of a transpose's result in the order of its operand's axes."""
    axes = attrs_of(permute).axes
    order = [int(axis) % factor.ndim for axis in axes] if axes else range(factor.ndim)[::-1]
    return factor.transpose(np.argsort(order))


def _name(var: relax.Expr) -> str:
    return var.name if isinstance(var, relax.Var) else ""


def _on(call: relax.Call, args: list[relax.Expr]) -> relax.Expr:
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
