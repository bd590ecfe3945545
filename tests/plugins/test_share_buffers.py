"""The pass `share-buffers`: what is written in place, and that the numbers stay the same bits."""

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt.rewriting import is_op
from tvmopt_plugins.fuse import Fuse
from tvmopt_plugins.lower import Legalize
from tvmopt_plugins.share_buffers import ShareBuffers


def prepared(mod: tvm.IRModule, check: Any) -> tvm.IRModule:
    return Fuse().run(Legalize().run(mod, check.ctx), check.ctx)


def shared(mod: tvm.IRModule, check: Any) -> tvm.IRModule:
    """The module after the pass, which computes the same bits."""
    return check(ShareBuffers(), prepared(mod, check))


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


def offsets(mod: tvm.IRModule) -> list[int]:
    """Where the views of the function begin in what they are views of, in bytes."""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    views = [b.value for b in bindings if is_op(b.value, "relax.memory.view")]
    return [int(view.args[3]) for view in views]


@I.ir_module
class Halves:
    """What YOLO's C2f does: both halves of a value are joined with what comes of one of them."""

    @R.function
    def main(x: R.Tensor((1, 4, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.split(a, 2, axis=1)
            c = R.matmul(b[1], w)
            d = R.concat([b[0], b[1], c], axis=1)
            e = R.matmul(d, w)
            R.output(e)
        return e


@I.ir_module
class Growing:
    """What DenseNet does: each concatenation has all parts of the one before."""

    @R.function
    def main(x: R.Tensor((1, 1, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.matmul(a, w)
            c = R.concat([a, b], axis=1)
            d = R.matmul(c, w)
            e = R.concat([a, b, d], axis=1)
            f = R.matmul(e, w)
            R.output(f)
        return f


@I.ir_module
class FromOutside:
    """An input and a constant are copied; the output is the buffer itself."""

    @R.function
    def main(x: R.Tensor((1, 1, 16), "float32"), w: R.Tensor((16, 16), "float32")):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.concat([x, a, R.const(np.ones((1, 1, 16), "float32"))], axis=1)
            R.output(b)
        return b


def test_halves_and_what_comes_of_them_lie_in_one_buffer(check: Any) -> None:
    mod = shared(Halves, check)
    assert not [name for name in kernels(mod) if "concat" in name or "slice" in name]
    # The first matmul's place; a half that is read there, the second matmul's place, both halves.
    assert offsets(mod) == [0, 128, 256, 0, 128]


def test_growing_concatenation_needs_one_buffer(check: Any) -> None:
    mod = shared(Growing, check)
    text = mod["main"].script()
    assert text.count("alloc_tensor") == 1
    assert not [name for name in kernels(mod) if "concat" in name]


def test_inputs_and_constants_are_copied_into_place(check: Any) -> None:
    mod = shared(FromOutside, check)
    assert kernels(mod) == ["copy", "matmul"]


def test_joined_rows_of_several_images_are_no_pieces(check: Any) -> None:
    @I.ir_module
    class Batch:
        @R.function
        def main(x: R.Tensor((2, 1, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.matmul(a, w)
                c = R.concat([a, b], axis=1)
                R.output(c)
            return c

    before = prepared(Batch, check)
    assert ShareBuffers().run(before, check.ctx).same_as(before)


def test_unaligned_parts_are_copied_together_and_the_report_says_so(check: Any) -> None:
    @I.ir_module
    class Odd:
        @R.function
        def main(x: R.Tensor((1, 5), "float32"), w: R.Tensor((5, 5), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.matmul(a, w)
                c = R.concat([a, b], axis=1)
                R.output(c)
            return c

    before = prepared(Odd, check)
    assert ShareBuffers().run(before, check.ctx).same_as(before)
    (remark,) = [r for r in check.ctx.report.remarks if r.kind == "missed"]
    assert "begins at byte 20" in remark.message


def test_model_output_is_not_a_part_of_another_ones_memory(check: Any) -> None:
    @I.ir_module
    class Both:
        @R.function
        def main(x: R.Tensor((1, 1, 16), "float32"), w: R.Tensor((16, 16), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.matmul(a, w)
                c = R.concat([a, b], axis=1)
                d = R.strided_slice(a, [2], [0], [16])
                R.output(a, c, d)
            return (a, c, d)

    assert "copy" in kernels(shared(Both, check))


@pytest.mark.parametrize(
    ("axis", "begin", "end", "expected"),
    [(0, 1, 3, [64]), (1, 4, 12, []), (0, 0, 2, [0])],
    ids=["rows", "columns", "front"],
)
def test_contiguous_slice_is_a_view(
    axis: int, begin: int, end: int, expected: list[int], check: Any
) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 16), "float32"))
    w = relax.Var("w", relax.TensorType((end - begin if axis else 16, 16), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            part = builder.emit(relax.op.strided_slice(x, [axis], [begin], [end]))
            out = builder.emit_output(relax.op.matmul(part, w))
        builder.emit_func_output(out)
    mod = shared(builder.get(), check)
    assert offsets(mod) == expected


def test_slice_at_an_unaligned_address_is_copied(check: Any) -> None:
    @I.ir_module
    class Odd:
        @R.function
        def main(x: R.Tensor((4, 5), "float32"), w: R.Tensor((5, 5), "float32")):
            with R.dataflow():
                a = R.strided_slice(x, [0], [1], [3])
                b = R.concat([a, a], axis=1)
                R.output(b)
            return b

    before = prepared(Odd, check)
    assert ShareBuffers().run(before, check.ctx).same_as(before)


def test_conditional_is_left_alone(check: Any) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((1, 16), "float32")) -> R.Tensor(
            (1, 32), "float32"
        ):
            a = R.nn.relu(x)
            b = R.exp(a)
            if c:  # noqa: SIM108 - TVMScript knows no ternary
                y = R.concat([a, b], axis=1)
            else:
                y = R.concat([b, a], axis=1)
            return y

    before = prepared(Before, check)
    assert ShareBuffers().run(before, check.ctx).same_as(before)
