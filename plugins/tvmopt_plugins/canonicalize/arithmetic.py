"""Cheaper arithmetic for the same value. Each docstring states the formula and what it costs."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import (
    Graph,
    constant_value,
    dtype_of,
    is_op,
    scalar_value,
    shape_of,
)

_FLOATS = ("float16", "float32", "float64")


def put_constant_last(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`c + x = x + c`, `c * x = x * c`; exact."""
    if not is_op(value, "relax.add", "relax.multiply", "relax.maximum", "relax.minimum"):
        return None
    first, second = value.args
    if constant_value(first) is None or constant_value(second) is not None:
        return None
    return relax.Call(value.op, [second, first], value.attrs, value.ty_args, value.span)


_NEUTRAL = {
    "relax.add": 0,
    "relax.subtract": 0,
    "relax.multiply": 1,
    "relax.divide": 1,
    "relax.power": 1,
}


def drop_neutral(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x + 0 = x - 0 = x * 1 = x / 1 = x ** 1 = x`; exact but for the sign of a zero."""
    if not is_op(value, *_NEUTRAL):
        return None
    first, second = value.args
    name: Any = value.op
    if shape_of(first) != shape_of(value) or scalar_value(second) != _NEUTRAL[name.name]:
        return None
    return first


def drop_double_negation(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`-(-x) = x`; exact."""
    if not is_op(value, "relax.negative"):
        return None
    inner = graph.producer(value.args[0])
    return inner.args[0] if is_op(inner, "relax.negative") else None


def subtract_to_add(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x - c = x + (-c)`; exact."""
    if not is_op(value, "relax.subtract") or dtype_of(value) not in _FLOATS:
        return None
    first, second = value.args
    array = constant_value(second)
    if array is None:
        return None
    return relax.op.add(first, relax.const(-array, dtype_of(second)))


def divide_to_multiply(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x / c = x * (1 / c)`; exact for powers of two, else at most 1 ulp off.

    Both `1 / c` and the product round by half a unit each, so that the result lies less than two
    units from the rounded quotient, and that means at most one. `c` whose reciprocal is no normal
    number stays, and so does a single quotient: it may be a scale that is exact in ONNX.
    """
    if not is_op(value, "relax.divide") or dtype_of(value) not in _FLOATS:
        return None
    if shape_of(value) == ():
        return None
    first, second = value.args
    array = constant_value(second)
    if array is None or constant_value(first) is not None:
        return None
    with np.errstate(all="ignore"):
        reciprocal = np.asarray(1 / array, dtype=array.dtype)
    if not _is_normal(reciprocal):
        return None
    return relax.op.multiply(first, relax.const(reciprocal, dtype_of(second)))


def merge_factors(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`(x * a) * b = x * (a * b)` for scalars; one rounding more or less: at most 1 ulp off.

    Only where nobody else reads the inner product.
    """
    if not is_op(value, "relax.multiply") or dtype_of(value) not in _FLOATS:
        return None
    inner = graph.producer(value.args[0])
    if not is_op(inner, "relax.multiply") or graph.uses(value.args[0]) != 1:
        return None
    outer_factor, inner_factor = scalar_value(value.args[1]), scalar_value(inner.args[1])
    if outer_factor is None or inner_factor is None:
        return None
    with np.errstate(over="ignore"):
        factor = np.asarray(outer_factor * inner_factor).astype(dtype_of(value))
    if not _is_normal(factor) or shape_of(inner.args[0]) != shape_of(value):
        return None
    return relax.op.multiply(inner.args[0], relax.const(factor, dtype_of(value)))


def expand_power(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x ** n` for `n` in 2, 3, 4, 1/2, -1/2, -1 without a call of `pow`.

    `x * x`, `x * x * x` and `(x * x) * (x * x)`: at most 1, 1 and 2 roundings more than one exact
    power would have. `sqrt(x)`, `rsqrt(x)`, `1 / x`: exact to rounding, except that `sqrt(-0.0)`
    is `-0.0` and `sqrt(-inf)` is NaN where `pow` gives `0.0` and `inf`.
    """
    if not is_op(value, "relax.power"):
        return None
    base, exponent = value.args[0], scalar_value(value.args[1])
    if exponent is None or shape_of(base) != shape_of(value):
        return None
    is_float = dtype_of(value) in _FLOATS
    match exponent:
        case 2:
            return relax.op.multiply(base, base)
        case 3:
            return relax.op.multiply(graph.emit(relax.op.multiply(base, base)), base)
        case 4:
            square = graph.emit(relax.op.multiply(base, base))
            return relax.op.multiply(square, square)
        case 0.5 if is_float:
            return relax.op.sqrt(base)
        case -0.5 if is_float:
            return relax.op.rsqrt(base)
        case -1 if is_float:
            return relax.op.divide(relax.const(1, dtype_of(value)), base)
        case _:
            return None


def maximum_to_relu(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`max(x, 0) = relu(x)`; exact."""
    if not is_op(value, "relax.maximum") or dtype_of(value) not in _FLOATS:
        return None
    first, second = value.args
    if scalar_value(second) != 0 or shape_of(first) != shape_of(value):
        return None
    return relax.op.nn.relu(first)


def _is_normal(array: np.ndarray[Any, Any]) -> bool:
    size = np.abs(array)
    return bool(np.isfinite(array).all() and (size >= np.finfo(array.dtype).tiny).all())
