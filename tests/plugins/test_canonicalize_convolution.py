"""canonicalize: one-dimensional convolutions become two-dimensional."""

import numpy as np
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt_plugins.canonicalize import Canonicalize

RNG = np.random.default_rng(3)
W1 = relax.const(RNG.standard_normal((4, 3, 3)).astype("float32"))
W2 = relax.const(RNG.standard_normal((4, 2, 5)).astype("float32"))
B1 = relax.const(RNG.standard_normal((1, 4, 1)).astype("float32"))
GAMMA, BETA, MEAN, VARIANCE = (
    relax.const(RNG.uniform(0.5, 1, 4).astype("float32")) for _ in range(4)
)


@I.ir_module
class Network:
    @R.function
    def main(x: R.Tensor((2, 3, 17), "float32")):
        with R.dataflow():
            a = R.nn.conv1d(x, W1, padding=[1, 0])
            b = R.add(a, B1)
            n = R.nn.batch_norm(b, GAMMA, BETA, MEAN, VARIANCE, axis=1, training=False)
            c = n[0]
            d = R.nn.relu(c)
            e = R.nn.max_pool1d(d, pool_size=[2], strides=[2])
            f = R.nn.conv1d(e, W2, strides=[2], padding=[4, 4], dilation=[2], groups=2)
            g = R.nn.leakyrelu(f, 0.1)
            R.output(g)
        return g


def test_network_has_one_reshape_at_each_end(check, ops) -> None:
    # The same products in the same order: only the loop nest around them differs.
    after = check(Canonicalize(), Network, rtol=1e-5, atol=1e-5)
    assert ops(after) == [
        "reshape",
        "nn.conv2d",
        "add",
        "nn.batch_norm",
        "nn.relu",
        "nn.max_pool2d",
        "nn.conv2d",
        "nn.leakyrelu",
        "reshape",
    ]


def test_branches_meet_in_four_dimensions(check, ops) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8), "float32")):
            with R.dataflow():
                a = R.nn.conv1d(x, W1, padding=[1, 1])
                b = R.mean(a, [2], keepdims=True)
                c = R.multiply(a, R.sigmoid(a))
                d = R.add(c, a)
                e = R.add(d, b)
                R.output(e)
            return e

    after = check(Canonicalize(), Before, rtol=1e-5, atol=1e-5)
    shapes = {
        tuple(int(dim) for dim in b.value.ty.shape)
        for b in after["main"].body.blocks[0].bindings
        if b.value.op.name in ("relax.multiply", "relax.sigmoid")
    }
    assert shapes == {(1, 4, 1, 8)}


def test_other_layout_stays_and_the_remark_says_why(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 8, 3), "float32")):
            with R.dataflow():
                a = R.nn.conv1d(x, W1, data_layout="NWC", out_layout="NWC")
                R.output(a)
            return a

    assert check.leaves(Canonicalize(), Before) == ["a: its layouts are NWC and OIW"]
