"""Exponentials and their relatives as polynomials that vectorize: no call into libm.

LLVM turns `exp`, `erf`, `tanh`, `log` and a power into one scalar call per element. Here each
becomes additions, fused multiply-adds, selects and integer shifts, all of which exist in vector
registers. The coefficients are minimax fits (Lawson's iteration on Chebyshev nodes); range
reductions follow Cephes. Errors are in units in the last place (ulp) of the exact result, over the
whole range of float32, as `tests/schedules/cpu/test_fast_math.py` measures them:

    exp      2 ulp; results under 2^-125.5 (1.7e-38) become 0
    expm1    3 ulp, written as exp(x) - 1 or 1 - exp(x): also near 0, where the difference cancels
    sigmoid  4 ulp; the same below 1.7e-38
    SiLU     4 ulp, written as x * sigmoid(x); 0 below x = -87
    log      2 ulp
    erf      6 ulp, tanh 6 ulp: 3.6e-7 absolute where the result is near 1
    pow      only with a constant exponent: 2, 3, 4, 0.5, -0.5, -1, -2 (2 ulp)
    nearbyint, to which relax.round lowers: exact

NaN gives NaN; infinities give the limits. Only float32 is rewritten.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from tvmopt_schedules.cpu.code.nested_math import contains, hold_nested
from tvmopt_schedules.cpu.code.operators import pure_operator

_ROUND_TO_INT32 = pure_operator("tvmopt.round_to_int32")
"""`float32 -> int32`: the nearest integer, halves to even; the compiler lowers it."""

Unary = Callable[[Any], Any]

_LOG2_E = 1.4426950408889634
# ln 2 = _LN2_HIGH + _LN2_LOW; the first has so few bits that its product with n is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0
"""1.5 * 2^23: adding it to a small float leaves the rounded number in the low mantissa bits."""

# exp(r) = 1 + r + r^2 * polynomial(r) on |r| <= ln(2) / 2
_EXP = (
    1.0,
    1.0,
    0.49999993409403737,
    0.16666519973310653,
    0.04166839579833598,
    0.008368796699180512,
    0.0013814433032819959,
)
# exp(-r) = 1 - r * polynomial(-r) on |r| <= ln(2) / 2, for what is added to 1: 0.8 ulp
_EXP_SHORT = (
    1.0,
    0.9999997063129102,
    0.4999914784070612,
    0.16667638128573767,
    0.041898159658889815,
    0.008290272029188608,
)
# erf(x) = x * P(x^2) / Q(x^2) on |x| <= 3.9268, where erf rounds to 1
_ERF_LIMIT = 3.9268
_ERF_P = (
    1.1283791456474006,
    0.1906611040891718,
    0.05277670214453617,
    0.003775043160139137,
    0.0002848295316736105,
    2.0445703037329747e-06,
)
_ERF_Q = (
    1.0,
    0.5023017309307163,
    0.11420919594267108,
    0.01498822716319875,
    0.0011643332651603707,
    3.803200376851262e-05,
)
# tanh(x) = x * P(x^2) / Q(x^2) on |x| <= 9.02, where tanh rounds to 1
_TANH_LIMIT = 9.02
_TANH_P = (
    0.9999999790566946,
    0.13379712942223526,
    0.003494028654420412,
    2.0583387173831257e-05,
    1.3318949183545743e-08,
)
_TANH_Q = (
    1.0,
    0.46713028193506156,
    0.02587105061849355,
    0.0003283083299226132,
    7.761967516112806e-07,
)
# log(1 + f) = f - f^2 / 2 + f^3 * polynomial(f) on sqrt(1/2) <= 1 + f < sqrt(2)
_LOG = (
    0.333333126039429,
    -0.25000009599462675,
    0.20002118666506358,
    -0.1666799585679847,
    0.14219552211257994,
    -0.12405588761449202,
    0.11888163191437738,
    -0.11675653254166529,
    0.06746640314635821,
)


def expand_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Replaces the float32 transcendentals of a kernel by polynomials; `func` if it has none.

    Run it when the schedule is done: every occurrence gets variables of its own, so that nothing
    may be inlined any more.
    """
    held = hold_nested(func, _is_expanded)
    rewrites = [
        (ir.Call, _expand_call),
        (tirx.Mul, _expand_product),
        (tirx.Sub, _expand_difference),
        (tirx.Add, _expand_sum),
        (tirx.Cast, _round_to_int),
    ]
    return tvm_ffi.structural_map(held, rewrites, order="pre")


def _is_expanded(call: ir.Call) -> bool:
    return isinstance(call.op, ir.Op) and call.op.name in _EXPANSIONS and _is_float32(call)


def _expand_call(call: ir.Call) -> Any:
    name = call.op.name if isinstance(call.op, ir.Op) else ""
    if name == "tirx.pow" and _is_float32(call):
        return _power(call)
    if name == "tirx.nearbyint" and _is_float32(call):
        return _bind("x", call.args[0], round_to_even)
    # What still has another one inside (see nested_math) stays a call.
    if not _is_expanded(call) or contains(call.args[0], _is_expanded):
        return call
    return _EXPANSIONS[call.op.name](call.args[0])


def _round_to_int(cast: tirx.Cast) -> Any:
    """`int32(nearbyint(x))` stays together: it is one instruction."""
    rounding = cast.value
    if str(cast.ty) != "int32" or not isinstance(rounding, ir.Call) or not _is_float32(rounding):
        return cast
    if not isinstance(rounding.op, ir.Op) or rounding.op.name != "tirx.nearbyint":
        return cast
    return ir.Call(_ROUND_TO_INT32, [rounding.args[0]], ret_ty="int32")


def _expand_product(product: tirx.Mul) -> Any:
    """`x * sigmoid(x) = x / (1 + e^-x)`: SiLU."""
    for x, gate in ((product.a, product.b), (product.b, product.a)):
        if not isinstance(gate, ir.Call) or not _is_expanded(gate):
            continue
        if gate.op.name == "tirx.sigmoid" and tvm_ffi.structural_equal(x, gate.args[0]):
            return product if contains(x, _is_expanded) else _bind("x", x, silu)
    return product


def _expand_difference(difference: tirx.Sub) -> Any:
    """`exp(x) - 1` and `1 - exp(x)`."""
    if _is_exp(difference.a) and _equals(difference.b, 1.0):
        return expm1(difference.a.args[0])
    if _is_exp(difference.b) and _equals(difference.a, 1.0):
        return _f32(-1.0) * expm1(difference.b.args[0])
    return difference


def _expand_sum(total: tirx.Add) -> Any:
    """`exp(x) + -1`, to which TVM simplifies `exp(x) - 1`."""
    for power, constant in ((total.a, total.b), (total.b, total.a)):
        if _is_exp(power) and _equals(constant, -1.0):
            return expm1(power.args[0])
    return total


def _is_exp(expr: Any) -> bool:
    """Whether it is an `exp` to expand, with none inside."""
    if not isinstance(expr, ir.Call) or not _is_expanded(expr) or expr.op.name != "tirx.exp":
        return False
    return not contains(expr.args[0], _is_expanded)


def _equals(expr: Any, value: float) -> bool:
    return isinstance(expr, tirx.FloatImm) and float(expr.value) == value


def _is_float32(expr: Any) -> bool:
    return str(expr.ty) == "float32"


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _i32(value: int) -> Any:
    return tirx.const(value, "int32")


def _bind(name: str, value: Any, body: Unary) -> Any:
    """`body` of a variable that stands for `value`, so that `value` is computed once."""
    var = tirx.Var(name, value.ty)
    return tirx.Let(var, value, body(var))


def _clamp(x: Any, low: float, high: float) -> Any:
    """Limits x to [low, high]; a NaN stays a NaN, which `max` and `min` do not promise."""
    above = tirx.Select(x < _f32(low), _f32(low), x)
    return _bind("clamped", above, lambda a: tirx.Select(a > _f32(high), _f32(high), a))


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    """`coefficients[0] + coefficients[1] * x + ...` by fused multiply-adds."""
    value = _f32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = tirx.op.fma(value, x, _f32(coefficient))
    return value


def exp(x: Any) -> Any:
    """e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln(2) / 2."""
    return _reduced(x, lambda power, r: power * _horner([2 * c for c in _EXP], r))


def expm1(x: Any) -> Any:
    """e^x - 1 = 2^n * (e^r - 1) + 2^n - 1, where e^r - 1 is a polynomial without cancellation."""

    def total(power: Any, r: Any) -> Any:
        less_one = tirx.op.fma(r * r, _horner(_EXP[2:], r), r)
        return _f32(2.0) * tirx.op.fma(power, less_one, power - _f32(0.5))

    return _reduced(x, total)


def _reduced(x: Any, result: Callable[[Any, Any], Any]) -> Any:
    """`result(2^(n-1), r)` for x = n * ln 2 + r."""
    # n - 1 + 127 goes into the exponent field, and the polynomial is doubled: 2^(n-1) is a finite
    # number for n = 128, and 0 for n = -126, where the result is as good as 0. 126 is part of the
    # rounding constant, whose own bits the shift pushes out.
    magic = _ROUND + 126.0

    def reduced(clamped: Any) -> Any:
        return _bind("shifted", tirx.op.fma(clamped, _f32(_LOG2_E), _f32(magic)), scaled(clamped))

    def scaled(clamped: Any) -> Unary:
        def body(shifted: Any) -> Any:
            power = tirx.reinterpret(
                "float32", tirx.shift_left(tirx.reinterpret("int32", shifted), _i32(23))
            )
            return _bind("n", shifted - _f32(magic), lambda n: rest(power, clamped, n))

        return body

    def rest(power: Any, clamped: Any, n: Any) -> Any:
        high = tirx.op.fma(n, _f32(-_LN2_HIGH), clamped)
        low = tirx.op.fma(n, _f32(-_LN2_LOW), high)
        return _bind("r", low, lambda r: result(power, r))

    return _bind("x", x, lambda v: _bind("clamped", _clamp(v, -87.3, 88.8), reduced))


def one_and_exp_of_negative(x: Any) -> Any:
    """1 + e^-x, which takes three instructions less than `exp`: for sigmoid and SiLU."""
    magic = _ROUND + 126.0

    def reduced(clamped: Any) -> Any:
        return _bind("shifted", tirx.op.fma(clamped, _f32(-_LOG2_E), _f32(magic)), scaled(clamped))

    def scaled(clamped: Any) -> Unary:
        def body(shifted: Any) -> Any:
            power = tirx.reinterpret(
                "float32", tirx.shift_left(tirx.reinterpret("int32", shifted), _i32(23))
            )
            return _bind("n", shifted - _f32(magic), lambda n: total(power, clamped, n))

        return body

    def total(power: Any, clamped: Any, n: Any) -> Any:
        high = tirx.op.fma(n, _f32(_LN2_HIGH), clamped)
        rest = tirx.op.fma(n, _f32(_LN2_LOW), high)
        signed = [2 * c * (-1) ** degree for degree, c in enumerate(_EXP_SHORT)]
        return _bind("r", rest, lambda r: tirx.op.fma(power, _horner(signed, r), _f32(1.0)))

    return _bind("x", x, lambda v: _bind("clamped", _clamp(v, -88.8, 87.3), reduced))


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return _f32(1.0) / one_and_exp_of_negative(x)


def silu(x: Any) -> Any:
    """The product x * sigmoid(x) = x / (1 + e^-x)."""
    return x / one_and_exp_of_negative(x)


def _odd_rational(x: Any, limit: float, p: Sequence[float], q: Sequence[float]) -> Any:
    def quotient(v: Any) -> Any:
        return _bind("square", v * v, lambda s: v * _horner(p, s) / _horner(q, s))

    return _bind("x", x, lambda v: _bind("clamped", _clamp(v, -limit, limit), quotient))


def erf(x: Any) -> Any:
    """The error function as an odd rational function."""
    return _odd_rational(x, _ERF_LIMIT, _ERF_P, _ERF_Q)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent as an odd rational function."""
    return _odd_rational(x, _TANH_LIMIT, _TANH_P, _TANH_Q)


def log(x: Any) -> Any:
    """The natural logarithm, e * ln 2 + ln m with x = 2^e * m and sqrt(1/2) <= m < sqrt(2)."""
    smallest_normal, sqrt_half = 1.17549435e-38, 0x3F3504F3

    def special(v: Any) -> Any:
        is_small = v < _f32(smallest_normal)
        scaled = tirx.Select(is_small, v * _f32(2.0**23), v)
        offset = tirx.Select(is_small, _f32(-23.0), _f32(0.0))
        finite = _bind("bits", tirx.reinterpret("int32", scaled), lambda b: split(b, offset))
        infinite = tirx.Select(v == _f32(0.0), _f32(float("-inf")), v)  # +inf, NaN
        is_regular = tirx.all(v > _f32(0.0), v < _f32(float("inf")))
        invalid = tirx.Select(v < _f32(0.0), _f32(float("nan")), infinite)
        return tirx.Select(is_regular, finite, invalid)

    def split(bits: Any, offset: Any) -> Any:
        return _bind(
            "e",
            tirx.shift_right(bits - _i32(sqrt_half), _i32(23)),
            lambda e: _bind(
                "f",
                tirx.reinterpret("float32", bits - tirx.shift_left(e, _i32(23))) - _f32(1.0),
                lambda f: series(f, e.astype("float32") + offset),
            ),
        )

    def series(f: Any, exponent: Any) -> Any:
        return _bind("exponent", exponent, lambda n: _bind("square", f * f, total(f, n)))

    def total(f: Any, n: Any) -> Unary:
        def body(square: Any) -> Any:
            tail = tirx.op.fma(n, _f32(_LN2_LOW), f * square * _horner(_LOG, f))
            return tirx.op.fma(n, _f32(_LN2_HIGH), f + tirx.op.fma(square, _f32(-0.5), tail))

        return body

    return _bind("x", x, special)


def round_to_even(x: Any) -> Any:
    """The nearest integer, halves to even, without the sign of zero; TVM's own is scalar code."""
    # From 2^23 on, floats are integers; x plus 2^23 of its sign lies where they are.
    limit = 2.0**23
    shift = tirx.Select(x < _f32(0.0), _f32(-limit), _f32(limit))
    is_fraction = tirx.all(x > _f32(-limit), x < _f32(limit))

    def rounded(c: Any) -> Any:
        # TVM would simplify `x + c - c`.
        return tirx.Select(is_fraction, tirx.op.fma(x, _f32(1.0), c) - c, x)

    return _bind("shift", shift, rounded)


def _power(call: ir.Call) -> Any:
    base, exponent = call.args
    if not isinstance(exponent, tirx.FloatImm):
        return call
    expand = _POWERS.get(float(exponent.value))
    return call if expand is None else _bind("base", base, expand)


_EXPANSIONS: dict[str, Unary] = {
    "tirx.erf": erf,
    "tirx.exp": exp,
    "tirx.log": log,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
}
_POWERS: dict[float, Unary] = {
    -2.0: lambda x: _f32(1.0) / (x * x),
    -1.0: lambda x: _f32(1.0) / x,
    -0.5: lambda x: _f32(1.0) / tirx.sqrt(x),
    0.5: tirx.sqrt,
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: _bind("square", x * x, lambda s: s * s),
}
