"""Polynomials for transcendentals: accuracy over the range of float32, and vector code."""

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tvm
from schedule_harness import compile_relax
from tvm import relax, s_tir, te

from tvmopt_plugins.target_x86 import X86
from tvmopt_schedules.cpu.code.fast_math import expand_math

SAMPLES = 1 << 20
FLUSHED = 2.0**-125.5  # exp and sigmoid give 0 below


@cache
def _floats() -> np.ndarray:
    """Evenly spread bit patterns of float32: every exponent, both signs, infinities and NaN."""
    step = 2**32 // SAMPLES
    bits = np.arange(SAMPLES, dtype=np.uint64) * step + 1234 % step
    return np.concatenate(
        [
            bits.astype(np.uint32).view(np.float32),
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 88.72, 88.73, -87.3, -104], np.float32),
            np.linspace(-10, 10, SAMPLES, dtype=np.float32),
        ]
    )


def _evaluate(op: Callable, x: np.ndarray) -> np.ndarray:
    source = te.placeholder((len(x),), name="x")
    func = te.create_prim_func([source, te.compute((len(x),), lambda i: op(source[i]), name="y")])
    sch = s_tir.Schedule(func)
    outer, inner = sch.split(sch.get_loops("y")[0], [None, 8])
    del outer
    sch.vectorize(inner)
    kernel = tvm.compile(expand_math(sch.mod["main"]), X86("x86-avx2").target())
    y = tvm.runtime.tensor(np.zeros_like(x))
    kernel["main"](tvm.runtime.tensor(x), y)
    return y.numpy()


def _erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun 7.1.5 and 7.1.14 in float64: series for small, fraction for large x."""
    x = np.clip(x, -6, 6)
    small = np.abs(x) < 2.5
    term = total = np.where(small, x, 0)
    for n in range(1, 60):
        term = -term * np.where(small, x, 0) ** 2 / n
        total = total + term / (2 * n + 1)
    large = np.where(small, 3.0, np.abs(x))
    fraction = np.zeros_like(x)
    for k in range(120, 0, -1):
        fraction = (k / 2) / (large + fraction)
    tail = np.exp(-(large**2)) / (np.sqrt(np.pi) * (large + fraction))
    return np.where(small, 2 / np.sqrt(np.pi) * total, np.sign(x) * (1 - tail))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# The bounds that the docstring of fast_math states, in ulp.
CASES = {
    "exp": (te.exp, np.exp, 2),
    "expm1": (lambda x: te.exp(x) - tvm.tirx.const(1.0, "float32"), np.expm1, 3),
    "negative expm1": (
        lambda x: tvm.tirx.const(1.0, "float32") - te.exp(x),
        lambda x: -np.expm1(x),
        3,
    ),
    "sigmoid": (te.sigmoid, _sigmoid, 4),
    "log": (te.log, np.log, 2),
    "erf": (te.erf, _erf, 6),
    "tanh": (te.tanh, np.tanh, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_error_stays_within_the_stated_bound(name: str) -> None:
    op, reference, bound = CASES[name]
    x = _floats()
    x = np.resize(x, (len(x) + 7) // 8 * 8)
    got = _evaluate(op, x)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    np.testing.assert_array_equal(got[np.isinf(rounded)], rounded[np.isinf(rounded)])
    regular = np.isfinite(rounded) & (np.abs(exact) >= max(FLUSHED, np.finfo(np.float32).tiny))
    ulp = np.abs(got[regular] - exact[regular]) / np.spacing(np.abs(rounded[regular]))
    assert ulp.max() <= bound, x[regular][ulp.argmax()]
    tiny = np.isfinite(rounded) & ~regular
    assert np.abs(got[tiny] - exact[tiny]).max(initial=0) <= FLUSHED


def test_silu_is_one_quotient() -> None:
    x = _floats()[np.abs(_floats()) < 80]  # e^-x overflows or vanishes beyond
    x = x[: len(x) // 8 * 8]
    got = _evaluate(lambda v: v * te.sigmoid(v), x)
    exact = x * _sigmoid(x.astype(np.float64))
    regular = np.abs(exact) >= np.finfo(np.float32).tiny
    ulp = np.abs(got - exact)[regular] / np.spacing(np.abs(exact[regular]).astype(np.float32))
    assert ulp.max() <= 4
    ends = np.array([np.inf, np.nan, -1e4, 1e4, 0, 0, 0, 0], np.float32)
    limits = _evaluate(lambda v: v * te.sigmoid(v), ends)
    np.testing.assert_allclose(limits, [np.inf, np.nan, 0, 1e4, 0, 0, 0, 0], atol=1e-30)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_elu_keeps_its_digits_near_zero(scale: float, device: str) -> None:
    """Elu, and Celu with its alpha; `exp(x) - 1` is 0 for x = -1e-8."""

    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        alpha, one, zero = (relax.const(c, "float32") for c in (scale, 1.0, 0.0))
        power = bb.emit(relax.op.exp(bb.emit(relax.op.divide(v[0], alpha))))
        low = bb.emit(relax.op.multiply(alpha, bb.emit(relax.op.subtract(power, one))))
        return relax.op.where(bb.emit(relax.op.greater(v[0], zero)), v[0], low)

    x = -np.logspace(-37, 1.9, 1003, dtype=np.float32)
    made = compile_relax(device, [(x.shape, "float32")], emit)
    exact = scale * np.expm1(x.astype(np.float64) / scale)
    ulp = np.abs(made.run(x)[0] - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert ulp.max() <= 3  # the scales are powers of two
    assert not re.search(r"\b(expf|expm1f)\b", made.assembly)


@pytest.mark.parametrize("exponent", [-2.0, -1.0, -0.5, 0.5, 2.0, 3.0, 4.0])
def test_constant_powers_are_exact_to_two_ulp(exponent: float) -> None:
    x = np.linspace(0.1, 9, 800, dtype=np.float32)
    got = _evaluate(lambda v: te.power(v, tvm.tirx.const(exponent, "float32")), x)
    exact = x.astype(np.float64) ** exponent
    assert (np.abs(got - exact) / np.spacing(exact.astype(np.float32))).max() <= 2


def test_other_powers_are_left_to_libm() -> None:
    x = np.linspace(0.1, 9, 800, dtype=np.float32)
    got = _evaluate(lambda v: te.power(v, tvm.tirx.const(2.5, "float32")), x)
    np.testing.assert_allclose(got, x.astype(np.float64) ** 2.5, rtol=1e-6)


def test_float64_is_left_alone() -> None:
    x = te.placeholder((16,), "float64", name="x")
    func = te.create_prim_func([x, te.compute((16,), lambda i: te.exp(x[i]), name="y")])
    assert expand_math(func).same_as(func)


@pytest.mark.parametrize(
    "op", ["gelu", "gelu_tanh", "silu", "softmax", "log_softmax"], ids=lambda op: op
)
def test_fused_activation_calls_no_libm_function(op: str, device: str) -> None:
    def emit(bb: relax.BlockBuilder, inputs: list[relax.Var]) -> relax.Expr:
        activated = bb.emit(getattr(relax.op.nn, op)(bb.emit(relax.op.add(*inputs))))
        return relax.op.multiply(activated, relax.const(2.0, "float32"))

    made = compile_relax(device, [((8, 64), "float32"), ((64,), "float32")], emit)
    called = set(re.findall(r"call\w*\s+(\w+)", made.assembly))
    assert made.kernels == 1
    assert not called & {"expf", "erff", "tanhf", "logf", "exp", "erf", "tanh", "log"}
    assert re.search(r"vfmadd\w+ps.*%[yz]mm", made.assembly)


def test_round_takes_halves_to_even() -> None:
    x = np.concatenate(
        [
            np.arange(-40, 40) / 4,
            np.arange(-4, 4) / 2 + 2.0**22,  # the last binade but one that has fractions
            np.arange(-4, 4) / 2 - 2.0**22,
            np.arange(-4, 4) / 2 + 2.0**23,
            [2.0**23 - 0.5, 0.5 - 2.0**23, 1e30, np.inf, -np.inf, np.nan, 0, -7],
        ]
    ).astype(np.float32)
    np.testing.assert_array_equal(_evaluate(tvm.tirx.nearbyint, x), np.round(x))


@pytest.mark.parametrize("length", [64, 67])
def test_transcendental_of_a_transcendental(length: int, device: str) -> None:
    """Mish and its like; bound to variables, this took TVM minutes to compile."""

    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        soft_plus = bb.emit(
            relax.op.log(
                bb.emit(relax.op.add(relax.const(1.0, "float32"), bb.emit(relax.op.exp(v[0]))))
            )
        )
        return relax.op.multiply(v[0], bb.emit(relax.op.tanh(soft_plus)))

    x = np.random.default_rng(0).standard_normal((3, length)).astype("float32")
    made = compile_relax(device, [(x.shape, "float32")], emit)
    exact = x * np.tanh(np.log1p(np.exp(x.astype(np.float64))))
    np.testing.assert_allclose(made.run(x)[0], exact, rtol=1e-5, atol=1e-6)
    assert not re.search(r"\b(expf|logf|tanhf)\b", made.assembly)
