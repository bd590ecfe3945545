"""recognize-patterns: decomposed operators become one operator again."""

from math import pi, sqrt

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt_plugins.recognize import RecognizePatterns

op = relax.op
RNG = np.random.default_rng(5)

ROUNDINGS = 1e-5
"""Sums over at most 8 elements in another order, and a dozen further roundings of values near 1:
less than 40 * 2^-24 relative to the largest, here at most 3."""


def normal(*shape: int) -> relax.Expr:
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def c(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def module(body, *shapes: tuple[int, ...], dtype: str = "float32") -> tvm.IRModule:
    bb = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(shape, dtype)) for i, shape in enumerate(shapes)]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(body(bb.emit, *params), "out")
        bb.emit_func_output(out)
    return bb.get()


# --- layer norm and RMS norm ---------------------------------------------------------------------


def centred(emit, x, axes):
    return emit(op.subtract(x, emit(op.mean(x, axes, keepdims=True))))


def variance(emit, d, axes, epsilon: float = 1e-5):
    return emit(op.add(emit(op.mean(emit(op.multiply(d, d)), axes, keepdims=True)), c(epsilon)))


def divided(emit, d, v):
    return emit(op.divide(d, emit(op.sqrt(v))))


def by_rsqrt(emit, d, v):
    return emit(op.multiply(d, emit(op.rsqrt(v))))


def by_reciprocal(emit, d, v):
    return emit(op.multiply(emit(op.divide(c(1.0), emit(op.sqrt(v)))), d))


@pytest.mark.parametrize("root", [divided, by_rsqrt, by_reciprocal])
@pytest.mark.parametrize("axes", [[-1], [2], [-2, -1]])
def test_layer_norm_takes_in_scale_and_shift(root, axes, check, ops) -> None:
    sizes = (4, 8)[-len(axes) :]

    def body(emit, x):
        d = centred(emit, x, axes)
        y = root(emit, d, variance(emit, d, axes))
        return op.add(emit(op.multiply(y, normal(*sizes))), normal(1, *sizes))

    after = check(RecognizePatterns(), module(body, (2, 4, 8)), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["nn.layer_norm"]


def test_layer_norm_stands_without_scale_and_shift(check) -> None:
    def body(emit, x):
        d = centred(emit, x, [-1])
        return divided(emit, d, variance(emit, d, [-1], 0.5))

    ones, zeros = relax.const(np.ones(8, "float32")), relax.const(np.zeros(8, "float32"))
    expected = module(lambda emit, x: op.nn.layer_norm(x, ones, zeros, [1], 0.5), (4, 8))
    check(RecognizePatterns(), module(body, (4, 8)), expected, rtol=ROUNDINGS, atol=ROUNDINGS)


def test_layer_norm_over_channels_stays_and_the_remark_says_why(check) -> None:
    def body(emit, x):
        d = centred(emit, x, [1])
        return divided(emit, d, variance(emit, d, [1]))

    as_layer_norm, as_rms_norm = check.leaves(RecognizePatterns(), module(body, (2, 4, 8)))
    assert as_layer_norm.endswith(
        "no layer norm: it runs over axes [1], not over the last ones of several"
    )
    assert as_rms_norm.endswith(
        "no RMS norm: it runs over axes [1], not over the last ones of several"
    )


def test_mean_that_broadcasts_along_another_axis_is_no_layer_norm(check, ops) -> None:
    def body(emit, x):
        d = emit(op.subtract(x, emit(op.mean(x, [-1]))))  # [4, 4] - [4]: from each column
        return divided(emit, d, variance(emit, d, [-1]))

    after = check(RecognizePatterns(), module(body, (4, 4)), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["mean", "subtract", "nn.rms_norm"]
    (remark,) = check.missed()
    assert remark.endswith("the mean without keepdims broadcasts along another axis")


def test_scale_that_adds_an_axis_stays_outside(check, ops) -> None:
    def body(emit, x):
        d = centred(emit, x, [-1])
        y = emit(op.multiply(divided(emit, d, variance(emit, d, [-1])), normal(1, 1, 8)))
        return op.add(y, normal(1, 1, 8))

    after = check(RecognizePatterns(), module(body, (4, 8)), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["nn.layer_norm", "multiply", "add"]


@pytest.mark.parametrize("is_centred", [False, True])
def test_norm_in_double_precision_stays_and_the_remark_says_why(is_centred, check) -> None:
    def body(emit, x):
        d = centred(emit, x, [-1]) if is_centred else x
        mean = emit(op.mean(emit(op.multiply(d, d)), [-1], keepdims=True))
        return divided(emit, d, emit(op.add(mean, relax.const(1e-5, "float64"))))

    (remark,) = check.leaves(RecognizePatterns(), module(body, (4, 8), dtype="float64"))
    assert remark.endswith("no norm: TVM has none of float64, or rounds to float32")


def test_norm_of_the_whole_tensor_stays(check) -> None:
    def body(emit, x):
        return divided(emit, x, variance(emit, x, [0, 1]))

    (remark,) = check.leaves(RecognizePatterns(), module(body, (4, 8)))
    assert remark.endswith(
        "no RMS norm: it runs over axes [0, 1], not over the last ones of several"
    )


def test_mean_and_square_over_different_axes_are_only_an_rms_norm(check, ops) -> None:
    def body(emit, x):
        d = centred(emit, x, [1])
        return divided(emit, d, variance(emit, d, [-1]))

    after = check(RecognizePatterns(), module(body, (2, 4, 8)), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["mean", "subtract", "nn.rms_norm"]
    (remark,) = check.missed()
    assert remark.endswith("no layer norm: the mean runs over axes [1], the square over [2]")


@pytest.mark.parametrize("root", [divided, by_rsqrt, by_reciprocal])
def test_rms_norm_takes_in_its_scale(root, check, ops) -> None:
    def body(emit, x):
        return op.multiply(root(emit, x, variance(emit, x, [-1])), normal(8))

    after = check(RecognizePatterns(), module(body, (2, 4, 8)), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["nn.rms_norm"]


def test_root_mean_square_of_another_tensor_is_no_norm(check) -> None:
    def body(emit, x, y):
        return divided(emit, x, variance(emit, y, [-1]))

    assert check.leaves(RecognizePatterns(), module(body, (4, 8), (4, 8))) == []


# --- softmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_maximum", [False, True])
def test_softmax(with_maximum, check) -> None:
    def body(emit, x):
        if with_maximum:
            x = emit(op.subtract(x, emit(op.max(x, [-1], keepdims=True))))
        power = emit(op.exp(x))
        return op.divide(power, emit(op.sum(power, [-1], keepdims=True)))

    expected = module(lambda emit, x: op.nn.softmax(x, 1), (4, 8))
    check(RecognizePatterns(), module(body, (4, 8)), expected, rtol=ROUNDINGS)


def test_maximum_that_broadcasts_along_another_axis_stays_a_shift(check, ops) -> None:
    def body(emit, x):
        x = emit(op.subtract(x, emit(op.max(x, [-1]))))  # [4, 4] - [4]: from each column
        power = emit(op.exp(x))
        return op.divide(power, emit(op.sum(power, [-1], keepdims=True)))

    after = check(RecognizePatterns(), module(body, (4, 4)), rtol=ROUNDINGS)
    assert ops(after) == ["max", "subtract", "nn.softmax"]
    (remark,) = check.missed()
    assert remark.endswith("maximum without keepdims: kept as a shift")


def test_sum_over_two_axes_is_no_softmax_and_the_remark_says_so(check) -> None:
    def body(emit, x):
        power = emit(op.exp(x))
        return op.divide(power, emit(op.sum(power, [-2, -1], keepdims=True)))

    remarks = check.leaves(RecognizePatterns(), module(body, (2, 4, 8)))
    assert remarks == ["out: no softmax: the sum runs over axes [1, 2]"]


def test_exponentials_over_a_foreign_sum_are_no_softmax(check) -> None:
    def body(emit, x, y):
        total = emit(op.sum(emit(op.exp(y)), [-1], keepdims=True))
        return op.divide(emit(op.exp(x)), total)

    assert check.leaves(RecognizePatterns(), module(body, (4, 8), (4, 8))) == []


# --- activations ----------------------------------------------------------------------------------


def erf_gate(emit, x, factor: float = 1 / sqrt(2)):
    return emit(op.add(emit(op.erf(emit(op.multiply(x, c(factor))))), c(1.0)))


def tanh_gate(emit, x):
    cube = emit(op.multiply(emit(op.multiply(x, x)), x))
    inner = emit(op.add(x, emit(op.multiply(cube, c(0.044715)))))
    return emit(op.add(emit(op.tanh(emit(op.multiply(inner, c(sqrt(2 / pi)))))), c(1.0)))


def tanh_gate_factored(emit, x):
    square = emit(op.multiply(x, x))
    poly = emit(op.add(emit(op.multiply(square, c(0.044715))), c(1.0)))
    inner = emit(op.multiply(emit(op.multiply(x, c(sqrt(2 / pi)))), poly))
    return emit(op.add(emit(op.tanh(inner)), c(1.0)))


def tanh_gate_power(emit, x):
    cube = emit(op.power(x, c(3.0)))
    inner = emit(op.add(x, emit(op.multiply(cube, c(0.044715)))))
    return emit(op.add(emit(op.tanh(emit(op.multiply(inner, c(sqrt(2 / pi)))))), c(1.0)))


ORDERS = {
    "half-last": lambda emit, x, g: op.multiply(emit(op.multiply(x, g)), c(0.5)),
    "half-on-x": lambda emit, x, g: op.multiply(emit(op.multiply(x, c(0.5))), g),
    "half-on-gate": lambda emit, x, g: op.multiply(x, emit(op.multiply(g, c(0.5)))),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (erf_gate, "nn.gelu"),
        (tanh_gate, "nn.gelu_tanh"),
        (tanh_gate_factored, "nn.gelu_tanh"),
        (tanh_gate_power, "nn.gelu_tanh"),
    ],
)
def test_gelu_in_any_order(order, gate, name, check, ops) -> None:
    mod = module(lambda emit, x: order(emit, x, gate(emit, x)), (4, 8))
    # 1 + erf(x) cancels for negative x: an absolute rounding of 1, times x.
    after = check(RecognizePatterns(), mod, rtol=ROUNDINGS, atol=1e-6)
    assert ops(after) == [name]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            lambda emit, x: ORDERS["half-last"](emit, x, erf_gate(emit, x, 0.7)),
            "no GELU: inside erf or tanh stands 0.7 x^1",
        ),
        (
            lambda emit, x: ORDERS["half-last"](emit, x, erf_gate(emit, emit(op.exp(x)))),
            "no GELU: inside erf or tanh stands something else than a polynomial in x",
        ),
    ],
)
def test_other_gate_is_no_gelu_and_the_remark_says_why(body, why, check) -> None:
    assert check.leaves(RecognizePatterns(), module(body, (4, 8))) == [f"out: {why}"]


def test_product_without_the_half_is_no_gelu(check) -> None:
    mod = module(lambda emit, x: op.multiply(x, erf_gate(emit, x)), (4, 8))
    assert check.leaves(RecognizePatterns(), mod) == []


def test_silu(check) -> None:
    mod = module(lambda emit, x: op.multiply(x, emit(op.sigmoid(x))), (4, 8))
    expected = module(lambda emit, x: op.nn.silu(x), (4, 8))
    check(RecognizePatterns(), mod, expected, rtol=ROUNDINGS)


def written_out(emit, x):
    return emit(op.add(emit(op.exp(emit(op.negative(x)))), c(1.0)))


@pytest.mark.parametrize(
    ("numerator", "expected"),
    [
        (lambda x: c(1.0), lambda emit, x: op.sigmoid(x)),
        (lambda x: x, lambda emit, x: op.nn.silu(x)),
    ],
)
def test_sigmoid_written_out(numerator, expected, check) -> None:
    mod = module(lambda emit, x: op.divide(numerator(x), written_out(emit, x)), (4, 8))
    check(RecognizePatterns(), mod, module(expected, (4, 8)), rtol=ROUNDINGS)


def test_sigmoid_with_another_reader_stays_and_the_remark_says_why(check) -> None:
    def body(emit, x):
        gate = emit(op.sigmoid(x))
        return op.add(emit(op.multiply(x, gate), "product"), gate)

    remarks = check.leaves(RecognizePatterns(), module(body, (4, 8)))
    assert remarks == ["product: no SiLU: its sigmoid has another consumer"]


@pytest.mark.parametrize("name", ["hard-sigmoid", "hard-swish", "quick-gelu"])
def test_other_activations_stay_elementwise(name, check) -> None:
    def body(emit, x):
        if name == "quick-gelu":
            return op.multiply(x, emit(op.sigmoid(emit(op.multiply(x, c(1.702))))))
        gate = emit(op.multiply(emit(op.clip(emit(op.add(x, c(3.0))), 0, 6)), c(1 / 6)))
        return op.multiply(x, gate) if name == "hard-swish" else op.add(gate, c(0.0))

    assert check.leaves(RecognizePatterns(), module(body, (4, 8))) == []


# --- attention ------------------------------------------------------------------------------------


def attention(q_scale: float | None, k_scale: float | None, score_scale: float | None):
    def body(emit, q, k, v, mask):
        if k_scale is not None:
            k = emit(op.multiply(k, c(k_scale)))
        k = emit(op.permute_dims(k, [0, 1, 3, 2]))
        if q_scale is not None:
            q = emit(op.multiply(q, c(q_scale)))
        scores = emit(op.matmul(q, k))
        if score_scale is not None:
            scores = emit(op.multiply(scores, c(score_scale)))
        return op.matmul(emit(op.nn.softmax(emit(op.add(scores, mask)))), v)

    return module(body, (1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), (1, 1, 1, 5))


@pytest.mark.parametrize(
    "scales",
    [(0.5, 0.5, None), (0.25, None, None), (None, 0.25, None), (0.5, None, 0.5), (0.5, 0.25, 2.0)],
)
def test_only_the_scores_are_scaled(scales, check) -> None:
    check(RecognizePatterns(), attention(*scales), attention(None, None, 0.25))  # powers of two


def test_scores_without_a_scale_stay(check) -> None:
    assert check.leaves(RecognizePatterns(), attention(None, None, None)) == []


def test_scales_out_of_range_stay_and_the_remark_says_why(check) -> None:
    (remark,) = check.leaves(RecognizePatterns(), attention(1e-30, 1e-30, None))
    assert remark.endswith("the scales of its operands have no product in range")


def test_half_precision_keeps_its_scales_and_the_remark_says_why(check) -> None:
    def body(emit, q, k):
        return op.matmul(emit(op.multiply(q, relax.const(0.5, "float16"))), k)

    (remark,) = check.leaves(RecognizePatterns(), module(body, (1, 4), (4, 4), dtype="float16"))
    assert remark.endswith("in float16 the unscaled product might overflow")


def test_scaled_query_with_another_reader_keeps_its_scale(check) -> None:
    def body(emit, q, k):
        scaled = emit(op.multiply(q, c(0.5)))
        return op.add(emit(op.matmul(scaled, k)), scaled)

    assert check.leaves(RecognizePatterns(), module(body, (1, 4, 4), (1, 4, 4))) == []
