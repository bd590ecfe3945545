"""canonicalize: constant folding."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt_plugins.canonicalize import Canonicalize

op = relax.op
RNG = np.random.default_rng(1)
A = RNG.standard_normal((3, 4)).astype("float32")
B = RNG.standard_normal((3, 4)).astype("float32")
N = np.arange(12, dtype="int64").reshape(3, 4)


def c(array) -> relax.Expr:
    return relax.const(array)


def constant_only(value: relax.Expr) -> tvm.IRModule:
    """`main(x) = relu(x) , value`, the value made of constants only."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            first = bb.emit_output(op.nn.relu(x))
            second = bb.emit_output(value)
        bb.emit_func_output([first, second])
    return bb.get()


@pytest.mark.parametrize(
    "value",
    [
        op.reshape(c(A), (2, 6)),
        op.permute_dims(c(A)),
        op.permute_dims(c(A), [-1, 0]),
        op.expand_dims(c(A), [0]),
        op.squeeze(op.reshape(c(A), (1, 12)), [0]),
        op.astype(c(N), "float32"),
        op.astype(c(A), "int32"),
        op.broadcast_to(c(A), (2, 3, 4)),
        op.concat([c(A), c(B)], 1),
        op.strided_slice(c(A), [0, 1], [0, -3], [2, 9], [1, 2]),
        op.strided_slice(c(A), [1], [3], [-9], [-2]),
        op.take(c(A), c(np.array([2, 0])), 0),
        op.add(c(A), c(B)),
        op.subtract(c(N), c(np.int64(7))),
        op.divide(c(A), c(B)),
        op.divide(c(N), c(np.int64(-5))),
        op.power(c(np.abs(A)), c(np.float32(1.7))),
        op.sqrt(c(np.abs(A))),
        op.exp(c(A)),
        op.tanh(c(A)),
        op.matmul(c(A), op.permute_dims(c(B))),
        op.less(c(N), c(np.int64(5))),
        op.where(c(A > 0), c(A), c(B)),
        op.shape_to_tensor(op.shape_of(c(A))),
        op.take(op.shape_to_tensor(op.shape_of(c(A))), c(np.int64(1)), 0),
        op.full((2, 2), c(np.float32(3)), "float32"),
        op.arange(0, 5, 1, "int64"),
        op.sum(c(A), [1]),
    ],
    ids=lambda value: value.op.name,
)
def test_constant_expression_becomes_what_tvm_computes(value, check, ops) -> None:
    # The kernel TVM builds for the original may sum in another order: four products below 9 (three
    # standard deviations squared), each rounded by 2^-24, and as many partial sums.
    after = check(Canonicalize(), constant_only(value), rtol=1e-6, atol=8 * 9 * 2**-24)
    assert ops(after) == ["nn.relu"]


def test_folded_weight_keeps_the_consumers_name(check, names) -> None:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            weight = bb.emit(op.permute_dims(c(A.T.copy())), "transpose_1")
            out = bb.emit_output(op.matmul(x, weight), "dense_1")
        bb.emit_func_output(out)
    after = check(Canonicalize(), bb.get())
    assert names(after) == ["dense_1"]


def test_constant_that_would_grow_is_left_and_named(check) -> None:
    value = op.broadcast_to(c(A), (64, 1024, 3, 4))
    after = Canonicalize().run(constant_only(value), check.ctx)
    assert not any(isinstance(b.value, GenericConst) for b in after["main"].body.blocks[0].bindings)
    assert len(check.missed()) == 1
    assert "48 bytes stays unfolded: it would grow to 3145728" in check.missed()[0]


def test_limit_of_growth_is_an_option(check, ops) -> None:
    value = op.broadcast_to(c(A), (64, 1024, 3, 4))
    one = Canonicalize.from_options({"max-growth-bytes": str(1 << 22)})
    assert ops(one.run(constant_only(value), check.ctx)) == ["nn.relu"]


def test_dequantized_weight_stays_small(check, ops) -> None:
    weight = c(np.ones((3, 4), "int8"))
    value = op.dequantize(weight, c(np.float32(0.5)), c(np.int8(0)), out_dtype="float32")
    assert ops(Canonicalize().run(constant_only(value), check.ctx)) == ["nn.relu", "dequantize"]


def test_output_that_is_constant_stays_an_output(check) -> None:
    after = check(Canonicalize(), constant_only(op.add(c(A), c(B))))
    assert len(after["main"].body.body.fields) == 2
