"""The pass `fuse`, from Relax to fused PrimFuncs."""

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt import CompileContext, CompileRequest, ModelSource
from tvmopt.plugins import Plugins
from tvmopt_plugins.fuse import Fuse


@pytest.fixture
def ctx() -> CompileContext:
    backend = Plugins.load().backend("x86-avx2")
    request = CompileRequest(ModelSource(Path("model.onnx")), backend)
    return CompileContext(request, backend.target())


@I.ir_module
class TwoBranches:
    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor(
        (4, 8), "float32"
    ):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.sigmoid(a)
            c = R.multiply(a, b)
            d = R.matmul(c, w)
            e = R.sigmoid(d)
            f = R.multiply(d, e)
            R.output(f)
        return f


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


def calls(mod: tvm.IRModule) -> list[str]:
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def run(mod: tvm.IRModule, *args: np.ndarray) -> np.ndarray:
    target = tvm.target.Target("llvm")
    vm = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    return vm["main"](*[tvm.runtime.tensor(a) for a in args]).numpy()


def test_fork_and_join_become_one_kernel_and_equal_groups_share_it(ctx: CompileContext) -> None:
    mod = Fuse().run(relax.transform.LegalizeOps()(TwoBranches), ctx)
    assert calls(mod) == ["a|b|c", "d|e|f"]
    assert kernels(mod) == ["matmul__tir_sigmoid__multiply"]


def test_fused_module_computes_the_same(ctx: CompileContext) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((4, 8), (8, 8)))
    legal = relax.transform.LegalizeOps()(TwoBranches)
    # The same scalar code in another order of loops: equal but for contraction to FMA.
    np.testing.assert_allclose(run(Fuse().run(legal, ctx), x, w), run(legal, x, w), rtol=1e-6)


def test_lone_reshape_becomes_a_view(ctx: CompileContext) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((4, 4), "float32")) -> R.Tensor(
            (8, 4), "float32"
        ):
            with R.dataflow():
                a = R.nn.relu(x)
                b = R.reshape(a, (8, 4))
                c = R.matmul(b, w)
                R.output(c)
            return c

    mod = Fuse().run(relax.transform.LegalizeOps()(Before), ctx)
    reshape = mod["main"].body.blocks[0].bindings[1].value
    assert reshape.op == tvm.ir.Op.get("relax.reshape")
    assert kernels(mod) == ["matmul", "relu"]


def test_model_output_in_a_chain_is_kept(ctx: CompileContext) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32")):
            with R.dataflow():
                a = R.nn.relu(x)
                b = R.negative(a)
                R.output(a, b)
            return (a, b)

    mod = Fuse().run(relax.transform.LegalizeOps()(Before), ctx)
    assert calls(mod) == ["a", "b"]


def test_kernel_size_is_limited_by_the_option(ctx: CompileContext) -> None:
    legal = relax.transform.LegalizeOps()(TwoBranches)
    assert calls(Fuse(max_ops=2).run(legal, ctx)) == ["a", "b|c", "d", "e|f"]


def test_conditional_is_left_alone(ctx: CompileContext) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            a = R.nn.relu(x)
            if c:  # noqa: SIM108 - TVMScript knows no ternary
                y = R.negative(a)
            else:
                y = R.exp(a)
            z = R.abs(y)
            w = R.abs(z)
            return w  # noqa: RET504 - TVMScript wants a variable

    mod = Fuse().run(relax.transform.LegalizeOps()(Before), ctx)
    assert calls(mod) == ["a", "y", "z|w"]
    x = np.array([1, -2, 3, 4], np.float32)
    np.testing.assert_array_equal(run(mod, np.array(True), x), np.maximum(x, 0))


def test_slice_from_the_front_is_no_reshape(ctx: CompileContext) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 8), "float32")) -> R.Tensor((2, 8), "float32"):
            with R.dataflow():
                a = R.strided_slice(x, [0], [0], [2])
                b = R.reshape(a, (16,))
                c = R.nn.relu(b)
                R.output(c)
            return c

    mod = Fuse().run(relax.transform.LegalizeOps()(Before), ctx)
    assert calls(mod) == ["a|b|c"]
