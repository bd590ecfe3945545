"""merge-parallel-matmuls: matmuls of one input become one."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt_plugins.merge_matmuls import MergeParallelMatmuls

op = relax.op
RNG = np.random.default_rng(6)
A, B = (RNG.standard_normal((6, n)).astype("float32") for n in (4, 3))
U, V = (RNG.standard_normal(n).astype("float32") for n in (4, 3))
WA, WB, BU, BV = (relax.const(array) for array in (A, B, U, V))


def test_matmuls_with_biases_share_one_product(check, names) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 5, 6), "float32")):
            with R.dataflow():
                q = R.matmul(x, WA)
                q_bias = R.add(q, BU)
                k = R.matmul(x, WB)
                k_bias = R.add(k, BV)
                R.output(q_bias, k_bias)
            return (q_bias, k_bias)

    weight, bias = relax.const(np.concatenate([A, B], 1)), relax.const(np.concatenate([U, V]))

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 5, 6), "float32")):
            with R.dataflow():
                both = R.matmul(x, weight)
                all = R.add(both, bias)  # noqa: A001
                q = R.strided_slice(all, axes=[2], begin=[0], end=[4], strides=[1])
                k = R.strided_slice(all, axes=[2], begin=[4], end=[7], strides=[1])
                R.output(q, k)
            return (q, k)

    after = check(MergeParallelMatmuls(), Before, Expected)
    assert names(after) == ["q|k", "q|k", "q", "k"]


def parallel(widths: list[int], *, biases: list[bool], shared: bool = False) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 6), "float32"))
    w = relax.Var("w", relax.TensorType((6, 4), "float32"))
    same = relax.const(RNG.standard_normal((6, 4)).astype("float32"))
    with bb.function("main", [x, w]):
        with bb.dataflow():
            results = [bb.emit_output(op.matmul(x, w), "with_input")]
            for width, has_bias in zip(widths, biases, strict=True):
                weight = relax.const(RNG.standard_normal((6, width)).astype("float32"))
                data = bb.emit(op.nn.relu(x)) if shared else x
                y = bb.emit(op.matmul(data, same if shared else weight), f"dense{width}")
                if has_bias:
                    bias = relax.const(RNG.standard_normal(width).astype("float32"))
                    y = bb.emit(op.add(y, bias))
                results.append(bb.emit_output(op.sigmoid(y)))
        bb.emit_func_output(results)
    return bb.get()


@pytest.mark.parametrize("biases", [[False, False], [True, False], [False, True]])
def test_a_missing_bias_is_zero(biases, check, ops) -> None:
    after = check(MergeParallelMatmuls(), parallel([4, 3], biases=biases))
    assert ops(after).count("matmul") == 2  # one of them with a weight that is an input
    assert ops(after).count("add") == any(biases)


def test_wide_matmuls_are_left_and_named(check) -> None:
    remarks = check.leaves(MergeParallelMatmuls(), parallel([256, 192], biases=[False, False]))
    assert remarks == ["x: matmuls of one input, but dense256, dense192: more than 16 columns"]


def test_limit_of_width_is_an_option(check, ops) -> None:
    mod = parallel([256, 192], biases=[False, False])
    one = MergeParallelMatmuls.from_options({"max-width": "0"})
    assert ops(one.run(mod, check.ctx)).count("strided_slice") == 2


def test_weight_that_two_inputs_share_is_left(check) -> None:
    mod = parallel([4, 4], biases=[False, False], shared=True)
    assert check.leaves(MergeParallelMatmuls(), mod) == []


def test_one_matmul_alone_is_left(check) -> None:
    assert check.leaves(MergeParallelMatmuls(), parallel([4], biases=[True])) == []
