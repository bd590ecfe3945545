"""Quantize and dequantize as element-wise arithmetic."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant, is_op, shape_of
from tvmopt_plugins.realize_quantized.quantized import of_call

Array = np.ndarray[Any, Any]


def dequantize_for_each(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """Gives each consumer floats of its own, made in its kernel of integers in memory."""
    if not isinstance(value, relax.Call) or is_op(value, "relax.dequantize"):
        return None
    given = list(value.args)
    args = [_own(arg, graph) for arg in given]
    if args == given:
        return None
    return relax.Call(value.op, args, value.attrs, value.ty_args)


def _own(arg: relax.Expr, graph: Graph) -> relax.Expr:
    if isinstance(arg, relax.Tuple):
        given = list(arg.fields)
        fields = [_own(field, graph) for field in given]
        return arg if fields == given else relax.Tuple(fields)
    made = graph.producer(arg)
    if graph.uses(arg) < 2 or not is_op(made, "relax.dequantize"):
        return arg
    return relax.Call(made.op, list(made.args), made.attrs)


def expand(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """What the other sweeps left; its kernels are those of the operators around."""
    if not is_op(value, "relax.quantize", "relax.dequantize"):
        return None
    found = of_call(value)
    shape = shape_of(value)
    if found is None or shape is None:
        return None
    scale, zero = (_placed(one, found.axis, shape) for one in (found.scale, found.zero_point))
    if is_op(value, "relax.dequantize"):
        return to_floats(found.values, zero, scale)
    dtype = str(attrs_of(value).out_dtype)
    bounds = np.iinfo(dtype)
    scaled = relax.op.divide(found.values, constant(scale))
    return to_integers(scaled, zero, (int(bounds.min), int(bounds.max)), dtype)


def to_floats(integers: relax.Expr, zero: Array, scale: Array) -> relax.Expr:
    """`(integers - zero) * scale`."""
    numbers = relax.op.astype(integers, "float32")
    if np.any(zero):
        numbers = relax.op.subtract(numbers, constant(zero.astype("float32")))
    return relax.op.multiply(numbers, constant(scale))


def to_integers(
    scaled: relax.Expr, zero: int | Array, bounds: tuple[int, int], dtype: str
) -> relax.Expr:
    """`saturate(round(scaled) + zero)`, ties to even, between `bounds`.

    The bounds come first: then all that is rounded fits in int32.
    """
    zeros = np.asarray(zero, "int32")
    low, high = (np.asarray(bound - zeros, "float32") for bound in bounds)
    if zeros.ndim == 0:
        limited = relax.op.clip(scaled, float(low), float(high))
    else:
        limited = relax.op.maximum(relax.op.minimum(scaled, constant(high)), constant(low))
    whole = relax.op.astype(relax.op.round(limited), "int32")
    if np.any(zeros):
        whole = relax.op.add(whole, constant(zeros))
    return relax.op.astype(whole, dtype)


def _placed(array: Array, axis: int | None, shape: tuple[int, ...]) -> Array:
    """The numbers along `axis` of a tensor of `shape`, so that they broadcast."""
    if axis is None:
        return array
    return np.ascontiguousarray(array).reshape([-1] + [1] * (len(shape) - axis - 1))
