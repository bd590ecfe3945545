"""What is marked to be quantized, and what stays float32 and why."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import CompileContext, UsageError
from tvmopt.quantization import QuantizationScheme
from tvmopt_plugins.quantize import AnnotateQuantization
from tvmopt_plugins.quantize.annotate import annotate

RNG = np.random.default_rng(0)
Build = Callable[["Maker", Any], Any]


class Maker:
    """Emits operators under names, as the importer does."""

    def __init__(self, bb: relax.BlockBuilder) -> None:
        self.bb = bb

    def __call__(self, name: str, value: relax.Expr) -> Any:
        return self.bb.emit(value, name)

    def conv(self, name: str, x: Any, channels: int, size: int = 3) -> Any:
        weight = const(channels, int(x.ty.shape[1]), size, size)
        return self(name, relax.op.nn.conv2d(x, weight, padding=size // 2))

    def matmul(self, name: str, x: Any, width: int) -> Any:
        return self(name, relax.op.matmul(x, const(int(x.ty.shape[-1]), width)))


def const(*shape: int) -> Any:
    return relax.const(RNG.standard_normal(shape).astype(np.float32))


def module(shape: tuple[int, ...], build: Build) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(build(Maker(bb), x))
        bb.emit_func_output(result)
    return bb.get()


def bindings(mod: tvm.IRModule) -> list[Any]:
    return [b for block in mod["main"].body.blocks for b in block.bindings]


def op_of(value: Any) -> str:
    return getattr(getattr(value, "op", None), "name", "")


def quantized(mod: tvm.IRModule) -> list[str]:
    """The names of the activations that get a pair, in order."""
    found = [b for b in bindings(mod) if op_of(b.value) == "relax.quantize"]
    return [b.var.name for b in found if isinstance(b.value.args[0], relax.Var)]


def reads(mod: tvm.IRModule, name: str) -> list[str]:
    """What the operands of a binding are made by; the name of a parameter."""
    makers = {b.var: b.value for b in bindings(mod)}
    value = next(
        b.value for b in bindings(mod) if b.var.name == name and "quantize" not in op_of(b.value)
    )
    found = (
        list(value.args[0].fields) if isinstance(value.args[0], relax.Tuple) else list(value.args)
    )
    return [makers[v].op.name if v in makers else v.name for v in found if isinstance(v, relax.Var)]


@pytest.fixture
def marked(check: Any) -> Callable[..., tvm.IRModule]:
    def run(shape: tuple[int, ...], build: Build, **options: Any) -> tvm.IRModule:
        before = module(shape, build)
        after = AnnotateQuantization(**options).run(before, check.ctx)
        assert relax.analysis.check_well_formed(after)
        return after

    return run


def residual_block(m: Maker, x: Any) -> Any:
    first = m(
        "relu1",
        relax.op.nn.relu(m("bias1", relax.op.add(m.conv("conv1", x, 8), const(1, 8, 1, 1)))),
    )
    second = m("bias2", relax.op.add(m.conv("conv2", first, 8), const(1, 8, 1, 1)))
    total = m("relu2", relax.op.nn.relu(m("sum", relax.op.add(first, second))))
    return m.conv("conv3", total, 4)


def test_a_residual_block_stays_in_integers_and_its_result_is_float(marked: Any):
    after = marked((1, 3, 8, 8), residual_block)
    assert quantized(after) == ["x", "relu1", "bias2", "relu2"]
    assert reads(after, "sum") == ["relax.dequantize"] * 2
    assert reads(after, "conv3") == ["relax.dequantize"] * 2  # and its weight


def test_weights_are_marked_along_their_output_channels(marked: Any):
    def build(m: Maker, x: Any) -> Any:
        flat = m("flat", relax.op.reshape(m.conv("conv", x, 8), (1, 512)))
        return m.matmul("fc", flat, 10)

    after = marked((1, 3, 8, 8), build)
    weights = [
        b.value
        for b in bindings(after)
        if op_of(b.value) == "relax.quantize" and not isinstance(b.value.args[0], relax.Var)
    ]
    assert [int(w.attrs.axis) for w in weights] == [0, 1]
    assert [w.args[1].value.numpy().shape for w in weights] == [(8,), (10,)]
    assert [str(w.ty.dtype) for w in weights] == ["int8", "int8"]
    assert all(np.isnan(w.args[1].value.numpy()).all() for w in weights)


def test_per_tensor_weights_have_one_scale(check: Any):
    mod = module((1, 3, 8, 8), residual_block)
    scheme = QuantizationScheme(per_channel=False)
    after = annotate(mod, scheme, AnnotateQuantization(), check.ctx)
    scales = [
        b.value.args[1].value.numpy() for b in bindings(after) if "quantize" in op_of(b.value)
    ]
    assert all(scale.shape == () for scale in scales)


@pytest.mark.parametrize(
    "between",
    [
        lambda m, x: m("op", relax.op.nn.max_pool2d(x, (2, 2), (2, 2))),
        lambda m, x: m("op", relax.op.nn.avg_pool2d(x, (2, 2), (2, 2))),
        lambda m, x: m("op", relax.op.permute_dims(x, [0, 1, 3, 2])),
        lambda m, x: m("op", relax.op.concat([x, x], 1)),
        lambda m, x: m(
            "op", relax.op.image.resize2d(x, (16, 16), layout="NCHW", method="nearest_neighbor")
        ),
        lambda m, x: m("op", relax.op.mean(x, [2, 3], keepdims=True)),
        lambda m, x: m("op", m("halves", relax.op.split(x, 2, 1))[1]),
    ],
    ids=["max_pool", "avg_pool", "transpose", "concat", "resize", "mean", "split"],
)
def test_what_hands_values_on_stays_in_integers(marked: Any, between: Any):
    after = marked((1, 3, 8, 8), lambda m, x: m.conv("conv2", between(m, m.conv("conv1", x, 8)), 4))
    assert quantized(after) == ["x", "conv1", "op"]


def test_what_no_integer_kernel_reads_afterwards_stays_float(marked: Any):
    after = marked(
        (1, 3, 8, 8),
        lambda m, x: m("pool", relax.op.nn.max_pool2d(m.conv("conv", x, 8), (2, 2))),
    )
    assert quantized(after) == ["x"]


def test_floats_are_read_where_they_are_in_memory_anyway(marked: Any):
    def build(m: Maker, x: Any) -> Any:
        norm = m("exp", relax.op.exp(x))
        return m("sum", relax.op.add(norm, m.matmul("fc", norm, 16)))

    after = marked((4, 16), build)
    assert quantized(after) == ["exp"]
    assert reads(after, "sum") == ["relax.exp", "relax.matmul"]
    assert reads(after, "fc") == ["relax.dequantize"] * 2


def transformer(m: Maker, x: Any) -> Any:
    for index in range(2):
        norm = m(f"norm{index}", relax.op.nn.layer_norm(x, const(16), const(16), axes=[-1]))
        hidden = m(f"gelu{index}", relax.op.nn.gelu(m.matmul(f"up{index}", norm, 32)))
        scores = m(
            f"scores{index}", relax.op.matmul(norm, m(f"t{index}", relax.op.permute_dims(norm)))
        )
        weights = m(f"softmax{index}", relax.op.nn.softmax(scores))
        x = m(f"sum{index}", relax.op.add(x, m.matmul(f"down{index}", hidden, 16)))
        x = m(f"mix{index}", relax.op.matmul(weights, x))
    return x


def test_of_a_transformer_only_products_with_weights_are_quantized(marked: Any, check: Any):
    after = marked((4, 16), transformer)
    assert quantized(after) == ["norm0", "gelu0", "norm1", "gelu1"]
    missed = "\n".join(check.missed())
    assert "softmax0: stays float32: its results crowd near zero" in missed
    assert "norm1: stays float32: it divides by a deviation" in missed
    assert "gelu0: stays float32: it is computed in the kernel before it" in missed
    assert "scores0: stays float32: it has no constant weight" in missed
    found = [r.message for r in check.ctx.report.remarks if r.kind == "analysis"]
    assert found == ["the model normalizes layers: what lies between its products stays float32"]


def norm_before_residual(m: Maker, x: Any) -> Any:
    return m("norm", relax.op.nn.layer_norm(residual_block(m, x), const(8), const(8), axes=[-1]))


@pytest.mark.parametrize(("between", "count"), [("auto", 3), ("float32", 3), ("int8", 4)])
def test_normalized_layers_keep_residuals_in_floats_unless_told(
    marked: Any, between: str, count: int
):
    after = marked((1, 3, 8, 8), norm_before_residual, between=between)
    assert len(quantized(after)) == count


@pytest.mark.parametrize(
    ("options", "kept", "why"),
    [
        ({"exclude": "conv2"}, "conv2", "exclude=conv2"),
        ({"exclude": "nothing|conv[2]"}, "conv2", "exclude=conv[2]"),
        ({"exclude": "re:2$"}, "conv2", "exclude=re:2$"),
        ({"keep_first": True}, "conv1", "keep-first"),
        ({"keep_last": True}, "conv3", "keep-last"),
        ({"min_weights": 250}, "conv1", "has 216 elements, min-weights=250"),
    ],
)
def test_products_that_the_user_wants_in_floats_stay_so(
    marked: Any, check: Any, options: dict[str, Any], kept: str, why: str
):
    after = marked((1, 3, 8, 8), residual_block, **options)
    assert reads(after, kept)[-1] != "relax.dequantize" or len(reads(after, kept)) == 1
    assert any(one.startswith(f"{kept}: stays float32") and why in one for one in check.missed())
    assert len([r for r in check.passed() if "uint8 x int8" in r]) == 2


def test_a_kind_of_operator_can_be_excluded(marked: Any, check: Any):
    after = marked((1, 3, 8, 8), residual_block, exclude="op:add")
    # The sum is computed of floats: its operands need no integers of their own.
    assert quantized(after) == ["x", "relu1", "relu2"]
    marked((1, 3, 8, 8), residual_block, exclude="op:conv2d")
    assert ": nothing is quantized: no product fits" in check.missed()


def test_a_pattern_that_names_nothing_is_told(marked: Any, check: Any):
    marked((1, 3, 8, 8), residual_block, exclude="conv9")
    assert ": exclude=conv9 names nothing in the model" in check.missed()


def test_a_target_without_integers_refuses(check: Any, monkeypatch: pytest.MonkeyPatch):
    backend = check.ctx.request.backend
    monkeypatch.setattr(type(backend), "quantization", lambda _self: None)
    with pytest.raises(UsageError, match="'x86-avx2' has no integer arithmetic"):
        AnnotateQuantization().run(module((1, 3, 8, 8), residual_block), check.ctx)


def test_a_wrong_choice_is_named():
    with pytest.raises(UsageError, match="'between' of pass 'annotate-quantization' is one of"):
        AnnotateQuantization.from_options({"between": "int4"})


def test_the_float_module_is_not_changed(check: Any):
    before = module((1, 3, 8, 8), residual_block)
    text = before.script(show_meta=True)
    AnnotateQuantization().run(before, check.ctx)
    assert before.script(show_meta=True) == text


def test_marking_needs_no_calibration(check: Any):
    ctx = CompileContext(replace(check.ctx.request, calibration=None), check.ctx.target)
    after = AnnotateQuantization().run(module((1, 3, 8, 8), residual_block), ctx)
    assert quantized(after)


def test_the_report_has_a_line_for_what_was_considered(marked: Any, check: Any):
    marked((4, 16), transformer, exclude="up1")
    found = [(one.nodes, one.op, one.dtype) for one in check.ctx.report.quantization]
    assert found[:5] == [
        (("norm0",), "layer_norm", "float32"),
        (("up0",), "matmul", "int8"),
        (("gelu0",), "gelu", "float32"),
        (("scores0",), "matmul", "float32"),
        (("softmax0",), "softmax", "float32"),
    ]
    lines = {one.nodes[0]: one for one in check.ctx.report.quantization}
    assert (lines["up0"].scheme, lines["up0"].why) == ("uint8 x int8, per channel", "")
    assert lines["up0"].bytes_float == 16 * 32 * 4
    assert lines["up1"].why == "asked for by exclude=up1"
