"""canonicalize: padding goes into the operator that follows."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt_plugins.canonicalize import Canonicalize

W = relax.const(np.random.default_rng(2).standard_normal((2, 3, 3, 3)).astype("float32"))


def test_zeros_before_a_convolution_are_its_padding(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 6, 6), "float32")):
            with R.dataflow():
                wide = R.nn.pad(x, [0, 0, 0, 0, 1, 2, 0, 1])
                out = R.nn.conv2d(wide, W, padding=[1, 0, 1, 0], strides=[2, 1])
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 6, 6), "float32")):
            with R.dataflow():
                out = R.nn.conv2d(x, W, padding=[2, 0, 3, 1], strides=[2, 1])
                R.output(out)
            return out

    check(Canonicalize(), Before, Expected)


def pooled(pool, pad_value: float = 0.0, before=relax.op.nn.relu, **pad) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 3, 6, 6), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            data = bb.emit(before(x))
            wide = relax.op.nn.pad(data, [0, 0, 0, 0, 1, 1, 1, 1], pad_value=pad_value, **pad)
            out = bb.emit_output(pool(bb.emit(wide)), "pool")
        bb.emit_func_output(out)
    return bb.get()


def average(**attrs):
    return lambda x: relax.op.nn.avg_pool2d(x, (3, 3), (2, 2), **attrs)


def maximum(size: int = 3, **attrs):
    return lambda x: relax.op.nn.max_pool2d(x, (size, size), (2, 2), **attrs)


@pytest.mark.parametrize(
    "pool",
    [average(), average(padding=1, count_include_pad=True), maximum()],
)
def test_zeros_before_a_pool_are_its_padding(pool, check, ops) -> None:
    assert not [name for name in ops(check(Canonicalize(), pooled(pool))) if "pad" in name]


@pytest.mark.parametrize(
    ("mod", "why"),
    [
        (pooled(maximum(), before=relax.op.sin), "may be negative"),
        (pooled(average(), pad_value=1.0), "not of zeros"),
        (pooled(average(), pad_mode="reflect"), "not of zeros"),
    ],
)
def test_other_padding_stays_and_the_remark_says_why(mod, why, check) -> None:
    (remark,) = check.leaves(Canonicalize(), mod)
    assert remark.startswith("pool: ")
    assert why in remark


@pytest.mark.parametrize(
    "pool",
    [
        average(padding=1, count_include_pad=False),  # divides by fewer elements at its own border
        average(ceil_mode=True),  # its last window may hang over
        maximum(size=1),  # a window that covers padding alone
    ],
)
def test_pool_that_counts_otherwise_keeps_its_padding(pool, check) -> None:
    assert check.leaves(Canonicalize(), pooled(pool)) == []
