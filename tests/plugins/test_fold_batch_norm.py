"""fold-batch-norm: scales and shifts go into the weight before them."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt_plugins.fold_batch_norm import FoldBatchNorm

op = relax.op
RNG = np.random.default_rng(4)

ROUNDINGS = 2e-6
"""The folded sum has the same number of roundings as the original, in other places: for sums of at
most 72 products near 1, less than 72 * 2^-24 of the largest partial sum, and typically its root."""


def normal(*shape: int) -> relax.Expr:
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def positive(*shape: int) -> relax.Expr:
    return relax.const(RNG.uniform(0.5, 2, shape).astype("float32"))


def norm(x: relax.Expr, channels: int, **attrs) -> relax.Expr:
    parameters = (normal(channels), normal(channels), normal(channels), positive(channels))
    attrs = {"training": False, "axis": 1, **attrs}
    return op.nn.batch_norm(x, *parameters, **attrs)


def module(body, *shapes: tuple[int, ...]) -> tvm.IRModule:
    """`main` of float32 inputs of these shapes; `body(emit, *inputs)` gives its results."""
    bb = relax.BlockBuilder()

    def emit(value: relax.Expr, name: str) -> relax.Var:
        value = bb.normalize(value)
        var = relax.DataflowVar(name, value.ty)  # unlike bb.emit's, not made unique
        bb.emit_normalized(relax.VarBinding(var, value))
        return var

    params = [
        relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)
    ]
    with bb.function("main", params):
        with bb.dataflow():
            results = [bb.emit_output(result) for result in body(emit, *params)]
        bb.emit_func_output(results[0] if len(results) == 1 else results)
    return bb.get()


def conv_norm(conv, channels: int, bias: relax.Expr | None = None):
    def body(emit, x):
        y = emit(conv(x), "conv1")
        if bias is not None:
            y = emit(op.add(y, bias), "conv1")
        both = emit(norm(y, channels), "bn1")
        return [emit(relax.TupleGetItem(both, 0), "bn1")]

    return body


IMAGE = (1, 4, 5, 6)


@pytest.mark.parametrize(
    ("conv", "channels"),
    [
        (lambda x: op.nn.conv2d(x, normal(8, 4, 3, 3), padding=1), 8),
        (lambda x: op.nn.conv2d(x, normal(8, 2, 3, 3), groups=2), 8),
        (lambda x: op.nn.conv2d(x, normal(4, 1, 3, 3), groups=4), 4),
        (lambda x: op.nn.conv2d_transpose(x, normal(4, 6, 3, 3), strides=2), 6),
        (lambda x: op.nn.conv2d_transpose(x, normal(4, 3, 3, 3), groups=2), 6),
    ],
    ids=["dense", "grouped", "depthwise", "transposed", "transposed-grouped"],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_norm_after_a_convolution_becomes_weight_and_bias(
    conv, channels, with_bias, check, ops, names
) -> None:
    bias = normal(1, channels, 1, 1) if with_bias else None
    before = module(conv_norm(conv, channels, bias), IMAGE)
    after = check(FoldBatchNorm(), before, rtol=ROUNDINGS, atol=2 * ROUNDINGS)
    assert ops(after) == [ops(before)[0], "add"]
    assert names(after) == ["conv1|bn1", "conv1|bn1" if with_bias else "bn1"]


def test_formula(check) -> None:
    weight, gamma, beta, mean, variance = (
        np.array(values, "float32").reshape(shape)
        for values, shape in [
            ([2, 3], (2, 1, 1, 1)),
            ([8, 6], (2,)),
            ([1, 2], (2,)),
            ([4, 5], (2,)),
            ([3.75, 8.75], (2,)),
        ]
    )
    w, g, b, m, v = (relax.const(array) for array in (weight, gamma, beta, mean, variance))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 1, 2, 2), "float32")):
            with R.dataflow():
                y = R.nn.conv2d(x, w)
                n = R.nn.batch_norm(y, g, b, m, v, axis=1, epsilon=0.25, training=False)
                out = n[0]
                R.output(out)
            return out

    scaled = relax.const(np.array([2 * 4, 3 * 2], "float32").reshape(2, 1, 1, 1))
    shift = relax.const(np.array([1 - 4 * 4, 2 - 5 * 2], "float32").reshape(1, 2, 1, 1))

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 1, 2, 2), "float32")):
            with R.dataflow():
                y = R.nn.conv2d(x, scaled)
                out = R.add(y, shift)
                R.output(out)
            return out

    check(FoldBatchNorm(), Before, Expected, rtol=ROUNDINGS, atol=ROUNDINGS)


@pytest.mark.parametrize("attrs", [{"center": False}, {"scale": False}])
def test_norm_without_shift_or_scale_ignores_it(attrs, check) -> None:
    def body(emit, x):
        both = emit(norm(x, 4, **attrs), "bn1")
        return [emit(relax.TupleGetItem(both, 0), "bn1")]

    check(FoldBatchNorm(), module(body, IMAGE), rtol=ROUNDINGS, atol=ROUNDINGS)


def test_decomposed_norm_after_a_matmul_becomes_weight_and_bias(check, ops) -> None:
    def body(emit, x):
        y = emit(op.matmul(x, normal(6, 5)), "dense")
        y = emit(op.add(y, normal(5)), "dense")
        y = emit(op.multiply(y, normal(5)), "scale")
        return [emit(op.add(y, normal(5)), "shift")]

    after = check(FoldBatchNorm(), module(body, (2, 3, 6)), rtol=ROUNDINGS, atol=2 * ROUNDINGS)
    assert ops(after) == ["matmul", "add"]


def test_channel_scale_is_followed_through_a_transpose(check, ops, names) -> None:
    def body(emit, x):
        y = emit(op.matmul(x, normal(6, 5)), "dense")
        y = emit(op.add(y, normal(5)), "bias")
        y = emit(op.permute_dims(y, [0, 3, 1, 2]), "to_nchw")
        return [emit(op.multiply(y, normal(5, 1, 1)), "layer_scale")]

    after = check(FoldBatchNorm(), module(body, (1, 2, 3, 6)), rtol=ROUNDINGS, atol=2 * ROUNDINGS)
    assert ops(after) == ["matmul", "add", "permute_dims"]
    assert names(after) == ["dense|layer_scale", "bias", "to_nchw"]


def test_scalar_is_followed_through_the_split_into_heads(check, ops) -> None:
    def body(emit, x):
        y = emit(op.matmul(x, normal(6, 6)), "q")
        y = emit(op.reshape(y, (1, 3, 2, 3)), "heads")
        y = emit(op.permute_dims(y, [0, 2, 1, 3]), "front")
        return [emit(op.multiply(y, relax.const(0.125, "float32")), "scaled")]

    after = check(FoldBatchNorm(), module(body, (1, 3, 6)))  # a power of two: exact
    assert ops(after) == ["matmul", "reshape", "permute_dims"]


def test_norm_without_a_weight_becomes_scale_and_shift(check, ops) -> None:
    def body(emit, x):
        y = emit(op.nn.relu(x), "relu")
        both = emit(norm(y, 4), "bn1")
        return [emit(relax.TupleGetItem(both, 0), "bn1")]

    after = check(FoldBatchNorm(), module(body, IMAGE), rtol=ROUNDINGS, atol=ROUNDINGS)
    assert ops(after) == ["nn.relu", "multiply", "add"]
    assert check.missed() == [
        "bn1: no weight to fold it into: what it normalizes comes from relax.nn.relu"
    ]


def test_norm_with_statistics_as_inputs_is_applied_as_they_come(check) -> None:
    def body(emit, x, mean, variance):
        y = emit(op.nn.conv2d(x, normal(4, 4, 1, 1)), "conv1")
        both = op.nn.batch_norm(y, normal(4), normal(4), mean, variance, axis=1, training=False)
        return [emit(relax.TupleGetItem(emit(both, "bn1"), 0), "bn1")]

    mod = module(body, IMAGE, (4,), (4,))
    after = FoldBatchNorm().run(mod, check.ctx)
    assert relax.analysis.check_well_formed(after)
    assert check.missed() == ["bn1: its parameters are no constants: they are applied as they come"]


def test_norm_in_training_stays(check) -> None:
    def body(emit, x):
        both = emit(norm(x, 4, training=True), "bn1")
        return [emit(relax.TupleGetItem(both, 0), "bn1")]

    remarks = check.leaves(FoldBatchNorm(), module(body, IMAGE))
    assert remarks == [
        "bn1: the batch normalization is in training mode: its statistics are computed"
    ]


def shared(emit, x):
    y = emit(op.nn.conv2d(x, normal(4, 4, 1, 1)), "conv1")
    return [emit(op.multiply(y, normal(1, 4, 1, 1)), "scale"), emit(op.nn.relu(y), "relu")]


def returned(emit, x):
    y = emit(op.nn.conv2d(x, normal(4, 4, 1, 1)), "conv1")
    return [y, emit(op.multiply(y, normal(1, 4, 1, 1)), "scale")]


def weight_is_input(emit, x, w):
    y = emit(op.nn.conv2d(x, w), "conv1")
    return [emit(op.multiply(y, normal(1, 4, 1, 1)), "scale")]


def per_pixel(emit, x):
    y = emit(op.nn.conv2d(x, normal(4, 4, 1, 1)), "conv1")
    return [emit(op.multiply(y, normal(1, 1, 5, 6)), "scale")]


@pytest.mark.parametrize(
    ("body", "shapes", "why"),
    [
        (shared, [IMAGE], "the result of conv1 has another consumer"),
        (returned, [IMAGE], "the result of conv1 has another consumer"),
        (weight_is_input, [IMAGE, (4, 4, 1, 1)], "its weight is not constant"),
        (per_pixel, [IMAGE], "the factor is not one per output channel"),
    ],
)
def test_factor_that_cannot_be_folded_stays_and_the_remark_says_why(
    body, shapes, why, check
) -> None:
    assert check.leaves(FoldBatchNorm(), module(body, *shapes)) == [f"scale: {why}"]


def test_activation_between_keeps_the_factor_out(check) -> None:
    def body(emit, x):
        y = emit(op.nn.relu(op.nn.conv2d(x, normal(4, 4, 1, 1))), "relu")
        return [emit(op.multiply(y, normal(1, 4, 1, 1)), "scale")]

    assert check.leaves(FoldBatchNorm(), module(body, IMAGE)) == []


def test_double_precision_stays_double(check, ops) -> None:
    def double(*shape: int) -> relax.Expr:
        return relax.const(RNG.standard_normal(shape), "float64")

    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 8), "float64"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit(op.add(bb.emit(op.matmul(x, double(8, 6))), double(6)))
            y = bb.emit_output(op.add(bb.emit(op.multiply(y, double(6))), double(6)))
        bb.emit_func_output(y)
    # At most a dozen roundings of 2^-53 more or less, of sums of 8 products near 1.
    after = check(FoldBatchNorm(), bb.get(), rtol=1e-13, atol=1e-13)
    assert ops(after) == ["matmul", "add"]
