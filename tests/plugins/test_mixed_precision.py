"""Which operands are rounded, what is stored in 16 bits, and what stays float32 and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import relax as R

from tvmopt import CompileContext, CompileRequest, ModelSource, Pass, UsageError
from tvmopt.compiler.build import build
from tvmopt.plugins import Plugins
from tvmopt_plugins.fuse import Fuse
from tvmopt_plugins.lower import Legalize, Schedule
from tvmopt_plugins.mixed_precision import MixedPrecision, NarrowStorage
from tvmopt_plugins.target_x86 import X86

W = np.ones((8, 8), "float32")


def _context(device: str = "x86-bf16") -> CompileContext:
    backend = X86(device)
    return CompileContext(CompileRequest(ModelSource(Path("m.onnx")), backend), backend.target())


def _module(*steps: Any, shape: tuple[int, ...] = (4, 8)) -> tvm.IRModule:
    """`steps` one after the other, each `(name, value of the one before)`."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor(shape, "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            last: Any = x
            for name, step in steps:
                value = bb.normalize(step(last))
                var = relax.DataflowVar(name, value.ty)
                bb.emit_normalized(relax.VarBinding(var, value))
                last = var
            out = bb.emit_output(last)
        bb.emit_func_output(out)
    return bb.finalize()


def _matmul(x: relax.Expr) -> relax.Expr:
    return relax.op.matmul(x, relax.const(W))


def _casts(mod: tvm.IRModule) -> list[str]:
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    values = [b.value for b in bindings]
    return [str(v.attrs.dtype) for v in values if getattr(v, "op", None) == _ASTYPE]


_ASTYPE = tvm.ir.Op.get("relax.astype")


def test_both_operands_are_rounded_and_widened() -> None:
    ctx = _context()
    after = MixedPrecision().run(_module(("mm", _matmul)), ctx)
    assert _casts(after) == ["bfloat16", "float32"] * 2
    assert ctx.report.precision == "bfloat16"


def test_one_tensor_is_rounded_once() -> None:
    def both(x: relax.Expr) -> relax.Expr:
        return relax.op.add(_matmul(x), relax.op.matmul(x, relax.const(2 * W)))

    after = MixedPrecision().run(_module(("mm", both)), _context())
    assert _casts(after) == ["bfloat16", "float32"] * 3


def test_float16_rounds_weights_only() -> None:
    after = MixedPrecision("float16").run(_module(("mm", _matmul)), _context())
    assert _casts(after) == ["float16", "float32"]


@pytest.mark.parametrize(
    ("one", "left"),
    [
        (MixedPrecision(keep="b*"), ["b"]),
        (MixedPrecision(keep="a|c"), ["a", "c"]),
        (MixedPrecision(keep_ends=True), ["a", "c"]),
    ],
)
def test_named_nodes_stay_float32(one: MixedPrecision, left: list[str]) -> None:
    ctx = _context()
    after = one.run(_module(("a", _matmul), ("b", _matmul), ("c", _matmul)), ctx)
    assert [r.op for r in ctx.report.remarks if r.kind == "missed"] == left
    assert len(_casts(after)) == 4 * (3 - len(left))


def test_a_pattern_that_names_nothing_is_told_of() -> None:
    ctx = _context()
    MixedPrecision(keep="a|nothing*").run(_module(("a", _matmul), ("b", _matmul)), ctx)
    messages = [r.message for r in ctx.report.remarks if r.kind == "missed"]
    assert "keep=nothing* names no convolution or matmul" in messages
    assert not any("keep=a names" in message for message in messages)


def test_a_depthwise_convolution_stays_float32() -> None:
    def conv(x: relax.Expr) -> relax.Expr:
        return relax.op.nn.conv2d(x, relax.const(np.ones((8, 1, 3, 3), "float32")), groups=8)

    ctx, mod = _context(), _module(("dw", conv), shape=(1, 8, 5, 5))
    assert MixedPrecision().run(mod, ctx).same_as(mod)
    assert "kernel of its own" in ctx.report.remarks[0].message
    assert ctx.report.precision == "float32"


def test_a_target_without_the_instruction_is_told_of() -> None:
    ctx = _context("x86-avx2")
    MixedPrecision().run(_module(("mm", _matmul)), ctx)
    assert any("no AVX512-BF16" in r.message for r in ctx.report.remarks if r.kind == "missed")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UsageError, match="bfloat16, float16, got 'int4'"):
        MixedPrecision.from_options({"dtype": "int4"})


def test_a_negative_size_is_no_option() -> None:
    with pytest.raises(UsageError, match="'min-bytes' of pass 'narrow-storage' is at least 0"):
        NarrowStorage.from_options({"min_bytes": -5})


def test_storage_is_narrowed_along_with_it() -> None:
    request = CompileRequest(
        ModelSource(Path("m.onnx")), X86("x86-bf16"), {"mixed-precision": {"dtype": "float16"}}
    )
    plugins = Plugins.load()
    passes = plugins.line_up(request)
    plugins.modify_passes(passes, request)
    names = [one.name for one in passes]
    assert names.index("narrow-storage") == names.index("fuse") + 1
    assert next(one for one in passes if isinstance(one, NarrowStorage)).dtype == "float16"


# narrow-storage


def _stored(mod: tvm.IRModule, one: NarrowStorage, *before: Pass) -> list[str]:
    """The types of what the kernels write, in order."""
    ctx = _context()
    with ctx.target:
        for step in (*before, Legalize(), Fuse(), one):
            mod = step.run(mod, ctx)
    assert relax.analysis.check_well_formed(mod)
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    return [str(b.var.ty.dtype) for b in bindings if isinstance(b.value, relax.Call)]


def _softmax(x: relax.Expr) -> relax.Expr:
    return relax.op.nn.softmax(x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_lies_between_kernels_is_narrow_and_the_result_is_not(dtype: str) -> None:
    mod = _module(("a", _softmax), ("b", _softmax), ("c", _softmax), shape=(64, 64))
    assert _stored(mod, NarrowStorage(dtype)) == [dtype, dtype, "float32"]


def test_what_a_float16_cannot_hold_is_stored_as_its_largest_number() -> None:
    """And what is infinite or NaN in float32 stays that."""

    def same(x: relax.Expr) -> relax.Expr:
        return relax.op.sum(x, axis=2, keepdims=True)  # of one element

    x = np.array([1.5, 65504, 65519.9, 65520, 1e9, np.inf, np.nan, 0], "float32")
    x = np.tile(np.stack([x, -x]), (32, 8))[..., np.newaxis]
    ctx = _context("x86-avx2")
    mod = _module(("a", same), ("b", same), shape=x.shape)
    with ctx.target:
        for step in (Legalize(), Fuse(), NarrowStorage("float16"), Schedule()):
            mod = step.run(mod, ctx)
    said = [r.message for r in ctx.report.remarks if r.pass_name == "narrow-storage"]
    assert any("is stored as that" in message for message in said)
    machine = relax.VirtualMachine(build(mod, ctx.target).executable, tvm.cpu())
    result = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(result, np.where(np.isfinite(x), np.clip(x, -65504, 65504), x))


def test_small_tensors_stay_float32() -> None:
    mod = _module(("a", _softmax), ("b", _softmax), shape=(8, 8))
    assert _stored(mod, NarrowStorage()) == ["float32", "float32"]


def test_a_view_has_the_type_of_its_tensor() -> None:
    def flat(x: relax.Expr) -> relax.Expr:
        return relax.op.reshape(x, (4096,))

    def sort(x: relax.Expr) -> relax.Expr:
        return relax.op.sort(x)

    one = NarrowStorage()
    steps = (("a", _softmax), ("v", flat), ("b", _softmax))
    assert _stored(_module(*steps, shape=(64, 64)), one) == ["bfloat16", "bfloat16", "float32"]
    steps = (("a", _softmax), ("v", flat), ("b", sort))  # what cannot read it decides for both
    assert _stored(_module(*steps, shape=(64, 64)), one) == ["float32"] * 3


def test_a_rounding_of_what_is_stored_rounded_disappears() -> None:
    """`x` is read by the product and by the residual: the rounding had a kernel of its own."""

    def block(x: relax.Expr) -> relax.Expr:
        narrow = relax.op.astype(x, "bfloat16")
        return relax.op.add(_softmax(relax.op.astype(_softmax(narrow), "float32")), x)

    mod = _module(("a", _softmax), ("b", block), shape=(64, 64))
    kinds = _stored(mod, NarrowStorage())
    assert kinds.count("float32") == 1
    assert not any(isinstance(f, tirx.PrimFunc) and f.body is None for f in mod.functions.values())
