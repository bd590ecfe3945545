"""The pass `overwrite-operands`: which operands results replace, and that all bits stay."""

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper, numpy_helper
from tvm import tirx
from tvm.script import ir as I
from tvm.script import relax as R

import tvmopt
from tvmopt.rewriting import is_op
from tvmopt_plugins.fuse import Fuse
from tvmopt_plugins.lower import Legalize, Schedule
from tvmopt_plugins.overwrite_operands import OverwriteOperands


def prepared(mod: tvm.IRModule, check: Any) -> tvm.IRModule:
    for one in (Legalize(), Fuse(), Schedule()):
        mod = one.run(mod, check.ctx)
    return mod


def overwritten(mod: tvm.IRModule, check: Any) -> list[str]:
    """The operands that results replace in the rewritten module, which computes the same bits."""
    after = check(OverwriteOperands(), prepared(mod, check))
    calls = [
        binding.value
        for block in after["main"].body.blocks
        for binding in block.bindings
        if is_op(binding.value, "relax.call_tir_inplace")
    ]
    for call in calls:
        assert len(after[call.args[0]].params) == len(call.args[1].fields)
    return [call.args[1].fields[int(call.attrs.inplace_indices[0])].name for call in calls]


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


@I.ir_module
class Residual:
    """`a` is added to what comes of it, and dies."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.matmul(R.matmul(a, w), w)
            c = R.add(b, a)
            d = R.matmul(c, w)
            R.output(d)
        return d


def test_residual_is_added_in_place(check: Any) -> None:
    assert overwritten(Residual, check) == ["a"]
    (remark,) = [r for r in check.ctx.report.remarks if r.pass_name == "overwrite-operands"]
    assert remark.message == "1 results take the place of an operand (256 bytes)"


def test_report_names_the_kernels_that_run(check: Any) -> None:
    after = OverwriteOperands().run(prepared(Residual, check), check.ctx)
    assert sorted({layer.kernel for layer in check.ctx.report.layers}) == kernels(after)


def test_kernel_stays_for_the_call_whose_operand_lives_on(check: Any) -> None:
    @I.ir_module
    class Twice:
        @R.function
        def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.add(R.matmul(R.matmul(a, w), w), a)
                c = R.add(R.matmul(R.matmul(b, w), w), b)
                d = R.matmul(R.concat([a, c], axis=1), R.concat([w, w], axis=0))
                R.output(d)
            return d

    before = prepared(Twice, check)
    after = check(OverwriteOperands(), before)
    (added,) = [var for var in kernels(before) if "add" in var]
    assert [var for var in kernels(after) if "add" in var] == [added, f"{added}_inplace"]


def test_chain_of_results_lies_in_one_place(check: Any) -> None:
    @I.ir_module
    class Chain:
        @R.function
        def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.add(R.matmul(R.matmul(a, w), w), a)
                c = R.add(R.matmul(R.matmul(b, w), w), b)
                d = R.matmul(c, w)
                R.output(d)
            return d

    assert len(overwritten(Chain, check)) == 2


@I.ir_module
class ReadLater:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.matmul(R.add(R.matmul(R.matmul(a, w), w), a), w)
            c = R.matmul(b, R.matmul(R.permute_dims(a), b))
            R.output(c)
        return c


@I.ir_module
class ViewReadLater:
    @R.function
    def main(
        x: R.Tensor((4, 16), "float32"),
        w: R.Tensor((16, 16), "float32"),
        v: R.Tensor((64, 2), "float32"),
    ):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.reshape(a, (1, 64))
            c = R.matmul(R.add(R.matmul(R.matmul(a, w), w), a), w)
            d = R.matmul(b, v)
            R.output(c, d)
        return (c, d)


@I.ir_module
class Input:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.add(R.matmul(x, w), x)
            R.output(a)
        return a


@I.ir_module
class Constant:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.add(R.matmul(x, w), R.const(np.ones((4, 16), "float32")))
            R.output(a)
        return a


@I.ir_module
class Output:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.add(R.matmul(R.matmul(a, w), w), a)
            R.output(a, b)
        return (a, b)


@I.ir_module
class OtherType:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.astype(a, "int32")
            R.output(b)
        return b


@I.ir_module
class TwoOfOne:
    """The second operand of the product is the first one in another shape."""

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), w: R.Tensor((4, 4), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.reshape(a, (4, 4))
            c = R.matmul(a, b)
            R.output(c)
        return c


@pytest.mark.parametrize(
    "mod",
    [ReadLater, ViewReadLater, Input, Constant, Output, OtherType, TwoOfOne],
    ids=lambda mod: mod.__name__,
)
def test_what_lives_on_is_not_overwritten(mod: Any, check: Any) -> None:
    before = prepared(mod, check)
    assert OverwriteOperands().run(before, check.ctx).same_as(before)


def test_operand_that_is_also_read_elsewhere_is_named(check: Any) -> None:
    @I.ir_module
    class Mirrored:
        @R.function
        def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.concat([x, x], axis=0)
                b = R.add(R.flip(a, 1), a)
                c = R.matmul(b, w)
                R.output(c)
            return c

    before = prepared(Mirrored, check)
    assert OverwriteOperands().run(before, check.ctx).same_as(before)
    (remark,) = check.missed()
    assert "not written over a: its kernel reads other elements" in remark


def test_operand_that_is_only_read_elsewhere_is_no_news(check: Any) -> None:
    @I.ir_module
    class Square:
        @R.function
        def main(x: R.Tensor((16, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.matmul(a, w)
                R.output(b)
            return b

    assert check.leaves(OverwriteOperands(), prepared(Square, check)) == []


def test_conditional_is_left_alone(check: Any) -> None:
    @I.ir_module
    class Branch:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((1, 16), "float32")) -> R.Tensor(
            (1, 16), "float32"
        ):
            a = R.nn.relu(x)
            b = R.exp(a)
            if c:  # noqa: SIM108 - TVMScript knows no ternary
                y = R.add(a, b)
            else:
                y = R.subtract(a, b)
            return y

    before = prepared(Branch, check)
    assert OverwriteOperands().run(before, check.ctx).same_as(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_add_residuals_in_place(threads: int, residuals: Any) -> None:
    package, path = residuals
    layers = [layer.op for layer in package.report.layers if layer.kernel.endswith("_inplace")]
    assert layers == ["winograd_conv2d+add+add+relu", "conv2d+add+add+relu"]
    image = np.random.default_rng(3).standard_normal((1, 32, 30, 30)).astype("float32")
    (actual,) = package.run({"x": image}, threads=threads).values()
    (expected,) = pytest.importorskip("onnxruntime").InferenceSession(path).run(None, {"x": image})
    # Winograd's transforms of 4 x 4 results cost two decimal digits of float32.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def residuals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two blocks of a residual network: 30 x 30 leaves tiles that jut out."""
    rng = np.random.default_rng(2)
    nodes: list[Any] = []
    weights: list[Any] = []

    def conv(source: str, name: str, side: int) -> None:
        scale = (1 / 32 / side**2) ** 0.5
        weight = rng.standard_normal((32, 32, side, side)) * scale
        weights.append(numpy_helper.from_array(weight.astype("float32"), f"{name}_w"))
        weights.append(numpy_helper.from_array(np.full(32, 0.1, "float32"), f"{name}_b"))
        operands = [source, f"{name}_w", f"{name}_b"]
        nodes.append(helper.make_node("Conv", operands, [name], name, pads=[side // 2] * 4))

    conv("x", "a", 1)
    conv("a", "b", 1)
    conv("b", "c", 3)
    nodes.append(helper.make_node("Add", ["c", "a"], ["d"], "d"))
    nodes.append(helper.make_node("Relu", ["d"], ["e"], "e"))
    conv("e", "f", 3)
    conv("f", "g", 1)
    nodes.append(helper.make_node("Add", ["g", "e"], ["h"], "h"))
    nodes.append(helper.make_node("Relu", ["h"], ["i"], "i"))
    conv("i", "y", 1)
    infos = [helper.make_tensor_value_info(n, 1, [1, 32, 30, 30]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "residuals", infos[:1], infos[1:], weights)
    path = tmp_path_factory.mktemp("residuals") / "residuals.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return tvmopt.compile(path, target="x86-avx2", output=path.with_suffix(".tvmpkg")), path
