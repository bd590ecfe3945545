"""canonicalize: identities and cheaper arithmetic."""

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt_plugins.canonicalize import Canonicalize

ULP = float(np.finfo("float32").eps)
"""Distance of neighbouring float32 values, relative: never less than 1 ulp, at most 2."""


def unary(body) -> tvm.IRModule:
    """A module whose `main(x: float32[2, 3])` is `body(x)`."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(body(x))
        bb.emit_func_output(out)
    return bb.get()


def c(value, dtype: str = "float32") -> relax.Expr:
    return relax.const(value, dtype)


op = relax.op


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.add(x, c(0.0)),
        lambda x: op.add(c([0.0, 0.0, 0.0]), x),
        lambda x: op.subtract(x, c(0.0)),
        lambda x: op.multiply(c(1.0), x),
        lambda x: op.divide(x, c(1.0)),
        lambda x: op.power(x, c(1.0)),
        lambda x: op.negative(op.negative(x)),
        lambda x: op.reshape(x, (2, 3)),
        lambda x: op.permute_dims(x, [0, 1]),
        lambda x: op.astype(x, "float32"),
        lambda x: op.broadcast_to(x, (2, 3)),
        lambda x: op.tile(x, (1, 1)),
        lambda x: op.concat([x], 0),
        lambda x: op.strided_slice(x, [0], [0], [9]),
        lambda x: op.nn.pad(x, [0, 0, 0, 0]),
        lambda x: relax.TupleGetItem(op.nn.dropout(x), 0),
        lambda x: relax.TupleGetItem(relax.Tuple([x, c(1.0)]), 0),
        lambda x: op.squeeze(op.expand_dims(x, [1]), [1]),
        lambda x: op.permute_dims(op.permute_dims(x)),
    ],
)
def test_operator_that_does_nothing_disappears(body, check, ops) -> None:
    assert ops(check(Canonicalize(), unary(lambda x: op.nn.relu(body(x))))) == ["nn.relu"]


@pytest.mark.parametrize(
    ("body", "expected", "rtol"),
    [
        (lambda x: op.subtract(x, c(2.5)), lambda x: op.add(x, c(-2.5)), 0),
        (lambda x: op.divide(x, c(4.0)), lambda x: op.multiply(x, c(0.25)), 0),
        (lambda x: op.divide(x, c(3.0)), lambda x: op.multiply(x, c(np.float32(1) / 3)), ULP),
        # The constants are merged in float64: two roundings of the result become two others.
        (
            lambda x: op.multiply(op.multiply(x, c(3.0)), c(7.0)),
            lambda x: op.multiply(x, c(21.0)),
            2 * ULP,
        ),
        (lambda x: op.power(x, c(2.0)), lambda x: op.multiply(x, x), 2 * ULP),
        (lambda x: op.power(op.abs(x), c(0.5)), lambda x: op.sqrt(op.abs(x)), 2 * ULP),
        (lambda x: op.power(op.abs(x), c(-0.5)), lambda x: op.rsqrt(op.abs(x)), 3 * ULP),
        (lambda x: op.power(x, c(-1.0)), lambda x: op.divide(c(1.0), x), 2 * ULP),
        (lambda x: op.maximum(c(0.0), x), op.nn.relu, 0),
        (lambda x: op.add(x, c(np.full((2, 3), 2.0))), lambda x: op.add(x, c(2.0)), 0),
        (
            lambda x: op.multiply(x, op.broadcast_to(op.sigmoid(x), (2, 3))),
            lambda x: op.multiply(x, op.sigmoid(x)),
            0,
        ),
    ],
)
def test_arithmetic_becomes_cheaper(body, expected, rtol, check) -> None:
    check(Canonicalize(), unary(body), unary(expected), rtol=rtol)


def test_cube_is_two_products(check, ops) -> None:
    # pow itself may be off by an ulp, the two products by half an ulp each.
    after = check(Canonicalize(), unary(lambda x: op.power(x, c(3.0))), rtol=2 * ULP)
    assert ops(after) == ["multiply", "multiply"]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.power(x, c(2.5)),
        lambda x: op.multiply(x, c(1e-42)),
        lambda x: op.divide(x, c(1e-42)),  # the reciprocal is infinite
        lambda x: op.divide(x, c(3e38)),  # the reciprocal is subnormal
        lambda x: op.divide(x, c(0.0)),
        lambda x: op.multiply(op.multiply(x, c(1e30)), c(1e30)),
        lambda x: op.strided_slice(x, [0], [0], [1]),
        lambda x: op.astype(x, "int32"),
        lambda x: op.add(op.strided_slice(x, [0], [0], [1]), c(np.zeros((2, 3)))),  # broadcasts
    ],
)
def test_arithmetic_that_would_change_stays(body, check) -> None:
    assert check.leaves(Canonicalize(), unary(body)) == []


def test_shared_product_keeps_its_factor(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                a = R.multiply(x, R.const(3.0, "float32"))
                b = R.multiply(a, R.const(7.0, "float32"))
                R.output(a, b)
            return (a, b)

    assert check.leaves(Canonicalize(), Before) == []


def test_equal_computations_are_done_once(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            with R.dataflow():
                a = R.clip(x, 0, 6)
                b = R.clip(x, 0, 6)
                c = R.clip(x, 0, 5)
                d = R.add(a, b)
                e = R.add(d, c)
                R.output(e)
            return e

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            with R.dataflow():
                a = R.clip(x, 0, 6)
                c = R.clip(x, 0, 5)
                d = R.add(a, a)
                e = R.add(d, c)
                R.output(e)
            return e

    check(Canonicalize(), Before, Expected)


@given(
    st.floats(2.0**-60, 2.0**60, width=32),
    st.floats(2.0**-60, 2.0**60, width=32),
)
def test_reciprocal_is_at_most_one_ulp_off(x: float, divisor: float) -> None:
    quotient = np.float32(x) / np.float32(divisor)
    product = np.float32(x) * (np.float32(1) / np.float32(divisor))
    assert abs(int(quotient.view("int32")) - int(product.view("int32"))) <= 1


def test_pass_is_idempotent(check) -> None:
    once = check(Canonicalize(), unary(lambda x: op.divide(op.power(x, c(2.0)), c(8.0))), rtol=ULP)
    assert Canonicalize().run(once, check.ctx).same_as(once)
