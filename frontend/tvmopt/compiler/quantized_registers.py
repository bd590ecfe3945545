"""Quantized numbers within a kernel: what is known of them saves instructions."""

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from tvmopt.compiler.placeholders import is_call, lanes_of, vector

ROUND_TO_INT32 = "tvmopt.round_to_int32"
"""`float32 -> int32`: the nearest integer, halves to even, of what fits."""


def keep_in_registers(body: Any) -> Any:
    """Numbers that are quantized and dequantized in one kernel are not narrowed in between."""
    body = tvm_ffi.structural_map(body, (tirx.Cast, _without_storage))
    return tvm_ffi.structural_map(body, (tirx.Sub, _without_zero))


def bounds_of(expr: Any) -> tuple[float, float] | None:
    """The least and the largest an expression can be, if it is a rounded clip and a zero point."""
    rounded, zero = rounded_of(expr)
    if rounded is None:
        return None
    low, high = -np.inf, np.inf
    inner = rounded.args[0]
    while isinstance(inner, (tirx.Max, tirx.Min)):
        limits = [_constant(side) for side in (inner.a, inner.b)]
        given = [one for one in limits if one is not None]
        if len(given) != 1:
            break
        if isinstance(inner, tirx.Max):
            low = max(low, given[0])
        else:
            high, low = min(high, given[0]), min(low, given[0])
        inner = inner.b if limits[0] is not None else inner.a
    return low + zero, high + zero


def rounded_of(expr: Any) -> tuple[Any, float]:
    """The rounding in `round(x) + zero`, None where it is something else, and the zero point."""
    zero = 0.0
    if isinstance(expr, tirx.Add):
        constant = _constant(expr.b)
        if constant is None:
            return None, 0.0
        expr, zero = expr.a, constant
    return (expr if is_call(expr, ROUND_TO_INT32) else None), zero


def scalar_type(expr: Any) -> str:
    """The type of one lane."""
    return str(tvm.DataType(str(expr.ty)).with_lanes(1))


def _without_storage(cast: tirx.Cast) -> Any:
    """`wider(uint8(x))` is `wider(x)` where a quantization has bounded `x`."""
    stored = cast.value
    wider = scalar_type(cast)
    if wider not in ("float32", "int32") or not isinstance(stored, tirx.Cast):
        return cast
    type_ = scalar_type(stored)
    if type_ not in ("uint8", "int8"):
        return cast
    bounds = bounds_of(stored.value)
    kept = np.iinfo(type_)
    if bounds is None or bounds[0] < kept.min or bounds[1] > kept.max:
        return cast
    return stored.value.astype(vector(wider, lanes_of(cast)))


def _without_zero(difference: tirx.Sub) -> Any:
    """`float(round(x) + z) - z` is `float(round(x))`: small integers, without an error."""
    cast = difference.a
    if not isinstance(cast, tirx.Cast) or scalar_type(cast) != "float32":
        return difference
    rounded, zero = rounded_of(cast.value)
    bounds = bounds_of(cast.value)
    if rounded is None or bounds is None or _constant(difference.b) != zero:
        return difference
    if max(abs(bound) for bound in bounds) + abs(zero) > _EXACT:
        return difference
    return rounded.astype(vector("float32", lanes_of(cast)))


_EXACT = 2**24
"""Integers up to this one are float32 numbers."""


def _constant(expr: Any) -> float | None:
    expr = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return float(expr.value) if isinstance(expr, (tirx.FloatImm, tirx.IntImm)) else None
