"""Layer norm and RMS norm, as exporters without the operators write them."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant_value,
    dtype_of,
    is_op,
    scalar_value,
    shape_of,
)

_DTYPES = ("float16", "float32")


def recognize_layer_norm(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`d / sqrt(mean(d * d) + eps)` with `d = x - mean(x)` is `layer_norm(x)`.

    The same formula; the operator may sum in another order.
    """
    matched = _divided_by_root_mean_square(value, graph)
    if matched is None:
        return None
    centred, axes, epsilon = matched
    difference = graph.producer(centred)
    if not is_op(difference, "relax.subtract"):
        return None
    data, mean = difference.args[0], graph.producer(difference.args[1])
    if not is_op(mean, "relax.mean") or not mean.args[0].same_as(data):
        return None
    if not attrs_of(mean).keepdims:
        graph.missed("no layer norm: the mean without keepdims broadcasts along another axis")
        return None
    if _mean_axes(mean) != axes:
        graph.missed(
            f"no layer norm: the mean runs over axes {_mean_axes(mean)}, the square over {axes}"
        )
        return None
    if not _are_last(axes, data):
        graph.missed(f"no layer norm: it runs over axes {axes}, not over the last ones of several")
        return None
    ones, zeros = _parameters(data, axes)
    graph.absorb(centred)
    graph.passed("recognized as layer norm")
    return relax.op.nn.layer_norm(data, ones, zeros, axes, epsilon)


def recognize_rms_norm(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x / sqrt(mean(x * x) + eps)` is `rms_norm(x)`; the same formula."""
    matched = _divided_by_root_mean_square(value, graph)
    if matched is None:
        return None
    data, axes, epsilon = matched
    if not _are_last(axes, data):
        graph.missed(f"no RMS norm: it runs over axes {axes}, not over the last ones of several")
        return None
    graph.passed("recognized as RMS norm")
    return relax.op.nn.rms_norm(data, _parameters(data, axes)[0], axes, epsilon)


def take_in_scale(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`norm(x, 1) * g = norm(x, g)` for layer norm (without a shift yet) and RMS norm; exact."""
    if not is_op(value, "relax.multiply") or graph.uses(value.args[0]) != 1:
        return None
    norm, scale = graph.producer(value.args[0]), constant_value(value.args[1])
    if scale is None or not is_op(norm, "relax.nn.layer_norm", "relax.nn.rms_norm"):
        return None
    fitted = _fitted(scale, norm) if shape_of(norm) == shape_of(value) else None
    if fitted is None or scalar_value(norm.args[1]) != 1:
        return None
    if is_op(norm, "relax.nn.layer_norm") and scalar_value(norm.args[2]) != 0:
        return None
    args = [norm.args[0], relax.const(fitted, dtype_of(norm.args[1])), *norm.args[2:]]
    graph.absorb(value.args[0])
    return relax.Call(norm.op, args, norm.attrs, norm.ty_args)


def take_in_shift(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`layer_norm(x, g, 0) + b = layer_norm(x, g, b)`; exact."""
    if not is_op(value, "relax.add") or graph.uses(value.args[0]) != 1:
        return None
    norm, shift = graph.producer(value.args[0]), constant_value(value.args[1])
    if shift is None or not is_op(norm, "relax.nn.layer_norm"):
        return None
    fitted = _fitted(shift, norm) if shape_of(norm) == shape_of(value) else None
    if fitted is None or scalar_value(norm.args[2]) != 0:
        return None
    args = [*norm.args[:2], relax.const(fitted, dtype_of(norm.args[2]))]
    graph.absorb(value.args[0])
    return relax.Call(norm.op, args, norm.attrs, norm.ty_args)


def _divided_by_root_mean_square(
    value: relax.Expr, graph: Graph
) -> tuple[relax.Expr, list[int], float] | None:
    """`(y, axes, eps)` where the value is `y / sqrt(mean(y * y, axes) + eps)`."""
    if is_op(value, "relax.divide"):
        pairs = [(value.args[0], graph.producer(value.args[1]))]
        inverse = False
    elif is_op(value, "relax.multiply"):
        first, second = value.args
        pairs = [(first, graph.producer(second)), (second, graph.producer(first))]
        inverse = True
    else:
        return None
    for numerator, root in pairs:
        mean = _under_the_root(root, graph, inverse=inverse)
        if mean is None or constant_value(mean[1]) is None:
            continue
        square, epsilon = graph.producer(mean[0].args[0]), scalar_value(mean[1])
        if not is_op(square, "relax.multiply") or epsilon is None:
            continue
        if all(numerator.same_as(arg) for arg in square.args):
            if dtype_of(value) not in _DTYPES:
                graph.missed(f"no norm: TVM has none of {dtype_of(value)}, or rounds to float32")
                return None
            return numerator, _mean_axes(mean[0]), float(epsilon)
    return None


def _under_the_root(
    root: relax.Expr | None, graph: Graph, *, inverse: bool
) -> tuple[relax.Call, relax.Expr] | None:
    """The mean and the epsilon of `sqrt(mean + eps)`, or of one over it."""
    if inverse:
        if is_op(root, "relax.divide") and scalar_value(root.args[0]) == 1:
            root = graph.producer(root.args[1])
        elif not is_op(root, "relax.rsqrt"):
            return None
    elif not is_op(root, "relax.sqrt"):
        return None
    if not is_op(root, "relax.sqrt", "relax.rsqrt"):
        return None
    total = graph.producer(root.args[0])
    if not is_op(total, "relax.add"):
        return None
    mean = graph.producer(total.args[0])
    if not is_op(mean, "relax.mean") or not attrs_of(mean).keepdims:
        return None
    return mean, total.args[1]


def _mean_axes(mean: relax.Call) -> list[int]:
    rank = len(shape_of(mean.args[0]) or ())
    axes = attrs_of(mean).axis
    return sorted(int(axis) % rank for axis in axes) if axes else list(range(rank))


def _are_last(axes: list[int], data: relax.Expr) -> bool:
    # Not all of them either: TVM's own kernels of both norms need an axis to run along.
    rank = len(shape_of(data) or ())
    return len(axes) < rank and axes == list(range(rank - len(axes), rank))


def _parameters(data: relax.Expr, axes: list[int]) -> tuple[relax.Expr, relax.Expr]:
    shape = shape_of(data) or ()
    sizes = [shape[axis] for axis in axes]
    dtype = dtype_of(data)
    return relax.const(np.ones(sizes), dtype), relax.const(np.zeros(sizes), dtype)


def _fitted(array: np.ndarray[Any, Any], norm: relax.Call) -> np.ndarray[Any, Any] | None:
    """A scale or shift in the shape of a norm's parameters; None when it does not broadcast so."""
    shape = shape_of(norm.args[1]) or ()
    extra = array.ndim - len(shape)
    if extra > 0 and any(size != 1 for size in array.shape[:extra]):
        return None
    small = array.reshape(array.shape[extra:]) if extra > 0 else array
    try:
        return np.broadcast_to(small, shape)
    except ValueError:
        return None
