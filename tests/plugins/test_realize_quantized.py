"""Quantized operators in integers: bit for bit what `tvmopt.quantization` defines."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import CompileContext, CompileRequest, ModelSource
from tvmopt.compiler.build import build
from tvmopt.plugins import Plugins
from tvmopt.quantization import Encoding, along, dequantize, multiplier, quantize, requantize
from tvmopt.rewriting import is_op
from tvmopt_plugins.realize_quantized import RealizeQuantized

R = relax.op
Emit = Callable[[relax.BlockBuilder, Any], relax.Expr]

X = Encoding.of_range(-1.5, 3.0, "uint8")
Y = Encoding.of_range(0.0, 9.0, "uint8")
Z = Encoding.of_range(-4.0, 5.0, "uint8")
RNG = np.random.default_rng(0)


def _scalar(value: Any) -> relax.Expr:
    return relax.const(value.item(), value.dtype.name)


def _quantize(value: relax.Expr, encoding: Encoding) -> relax.Expr:
    return R.quantize(
        value,
        _scalar(encoding.scale),
        _scalar(encoding.zero_point),
        axis=-1,
        out_dtype=encoding.dtype,
    )


def _dequantize(value: relax.Expr, encoding: Encoding) -> relax.Expr:
    return R.dequantize(value, _scalar(encoding.scale), _scalar(encoding.zero_point), axis=-1)


class Weight:
    """Random int8 weights with a scale for each channel along `axis`, and a bias."""

    def __init__(self, shape: tuple[int, ...], axis: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.axis = axis
        self.integers = rng.integers(-60, 60, shape).astype("int8")
        self.scale = rng.uniform(0.001, 0.01, shape[axis]).astype("float32")
        self.bias = rng.standard_normal(shape[axis]).astype("float32")

    def emit(self) -> relax.Expr:
        zeros = relax.const(np.zeros(len(self.scale), "int8"))
        scale = relax.const(self.scale)
        return R.dequantize(relax.const(self.integers), scale, zeros, axis=self.axis)

    def requantized(
        self,
        sums: np.ndarray,
        source: Encoding,
        target: Encoding,
        axis: int,
        low: int = 0,
        high: int = 255,
    ) -> np.ndarray:
        """Sums without the source's zero point, with the bias, in the target's encoding."""
        units = np.rint(self.bias.astype("float64") / (source.scale * self.scale))
        total = (sums + along(units, axis, sums.ndim)).astype("int32")
        factor = along(multiplier(source.scale, self.scale, target.scale), axis, sums.ndim)
        return requantize(total, factor, target.zero_point, (low, high))


def _module(shape: tuple[int, ...], dtype: str, emit: Emit) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(shape), dtype))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(bb.normalize(emit(bb, x)))
        bb.emit_func_output(result)
    return bb.finalize()


def _context() -> CompileContext:
    backend = Plugins.load().backend("x86-avx2")
    return CompileContext(CompileRequest(ModelSource(Path("m.onnx")), backend), backend.target())


def _realized(mod: tvm.IRModule) -> tuple[tvm.IRModule, CompileContext]:
    ctx = _context()
    after = RealizeQuantized().run(mod, ctx)
    assert relax.analysis.check_well_formed(after)
    return after, ctx


def _run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """The result through the passes of a compilation, on this machine."""
    ctx = _context()
    plugins = Plugins.load()
    with ctx.target:
        for one in plugins.line_up(ctx.request):
            mod = one.run(mod, ctx)
    built = build(mod, ctx.target)
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    weights = tuple(tvm.runtime.tensor(w) for w in built.weights)
    arguments = [tvm.runtime.tensor(x), *([weights] if weights else [])]
    return machine["main"](*arguments).numpy()


def _ops(mod: tvm.IRModule) -> list[str]:
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    return [b.value.op.name for b in bindings if isinstance(b.value, relax.Call)]


def _convolve(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.einsum("ncyxij,ocij->noyx", view.astype("int64"), w.astype("int64"))


def _conv(bb: relax.BlockBuilder, x: relax.Expr, weight: Weight, *, pad: int) -> relax.Expr:
    conv = R.nn.conv2d(bb.emit(x), bb.emit(weight.emit()), padding=[pad] * 4)
    return R.add(conv, relax.const(along(weight.bias, 1, 4)))


def _image(channels: int) -> np.ndarray:
    return RNG.integers(0, 256, (1, channels, 8, 9)).astype("uint8")


def test_convolution_bias_relu_and_quantization_are_one_requantization() -> None:
    weight = Weight((12, 8, 3, 3), 0)
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        value = R.nn.relu(_conv(bb, _dequantize(given, X), weight, pad=1))
        return _quantize(bb.emit(bb.normalize(value)), Z)

    mod = _module(x.shape, "uint8", emit)
    after, ctx = _realized(mod)
    assert not ctx.report.remarks
    assert not {"relax.quantize", "relax.dequantize"} & set(_ops(after))
    centred = np.pad(x.astype("int32") - int(X.zero_point), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = _convolve(centred, weight.integers)
    expected = weight.requantized(sums, X, Z, 1, low=int(Z.zero_point))
    np.testing.assert_array_equal(_run(mod, x), expected)


def test_matmul_with_a_transposed_weight() -> None:
    weight = Weight((20, 32), 0)
    x = RNG.integers(0, 256, (5, 32)).astype("uint8")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        turned = bb.emit(R.permute_dims(bb.emit(weight.emit())))
        product = R.matmul(bb.emit(_dequantize(given, X)), turned)
        return _quantize(bb.emit(bb.normalize(R.add(product, relax.const(weight.bias)))), Z)

    mod = _module(x.shape, "uint8", emit)
    sums = (x.astype("int64") - int(X.zero_point)) @ weight.integers.T.astype("int64")
    np.testing.assert_array_equal(_run(mod, x), weight.requantized(sums, X, Z, 1))


def test_result_in_float_is_the_sum_times_its_scale() -> None:
    weight = Weight((20, 32), 0)
    x = RNG.integers(0, 256, (5, 32)).astype("uint8")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        turned = bb.emit(R.permute_dims(bb.emit(weight.emit())))
        return R.matmul(bb.emit(_dequantize(given, X)), turned)

    sums = (x.astype("int32") - int(X.zero_point)) @ weight.integers.T.astype("int32")
    expected = sums.astype("float32") * (X.scale * weight.scale)
    np.testing.assert_array_equal(_run(_module(x.shape, "uint8", emit), x), expected)


def test_residual_is_added_without_leaving_integers() -> None:
    weight = Weight((8, 8, 1, 1), 0)
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        conv = bb.emit(bb.normalize(_conv(bb, _dequantize(given, X), weight, pad=0)))
        stored = bb.emit(_quantize(conv, Z))
        total = R.add(bb.emit(_dequantize(stored, Z)), bb.emit(_dequantize(given, X)))
        return _quantize(bb.emit(R.nn.relu(bb.emit(total))), Y)

    sums = _convolve(x.astype("int32") - int(X.zero_point), weight.integers)
    stored = weight.requantized(sums, X, Z, 1).astype("float32")
    steps = (stored - int(Z.zero_point)) * np.float32(Z.scale / Y.scale)
    steps += (x.astype("float32") - int(X.zero_point)) * np.float32(X.scale / Y.scale)
    expected = np.clip(np.rint(steps), 0, 255).astype("uint8")
    np.testing.assert_array_equal(_run(_module(x.shape, "uint8", emit), x), expected)


S8 = Encoding.of_range(-1.5, 3.0, "int8")
S8_SYMMETRIC = Encoding.of_range(-4.0, 5.0, "int8", symmetric=True)


@pytest.mark.parametrize("target", [S8, S8_SYMMETRIC], ids=["asymmetric", "symmetric"])
def test_int8_activations_are_computed_in_uint8(target: Encoding) -> None:
    weight = Weight((12, 8, 3, 3), 0)
    x = (_image(8).astype("int16") - 128).astype("int8")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        conv = bb.emit(bb.normalize(_conv(bb, _dequantize(given, S8), weight, pad=1)))
        stored = bb.emit(_quantize(conv, target))
        return R.nn.max_pool2d(stored, (2, 2), (2, 2))

    mod = _module(x.shape, "int8", emit)
    after, ctx = _realized(mod)
    assert not ctx.report.remarks
    stored = [
        (binding.value.op.name, str(binding.value.args[0].ty.dtype))
        for block in after["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    assert {("relax.nn.conv2d", "uint8"), ("relax.nn.max_pool2d", "uint8")} <= set(stored)
    centred = np.pad(x.astype("int32") - int(S8.zero_point), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = _convolve(centred, weight.integers)
    wide = weight.requantized(sums, S8, target, 1, low=-128, high=127).astype("int8")
    view = np.lib.stride_tricks.sliding_window_view(wide, (2, 2), (2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(_run(mod, x), view.max((4, 5)))


def test_mean_is_summed_in_integers() -> None:
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        return _quantize(bb.emit(R.mean(bb.emit(_dequantize(given, X)), [2, 3], True)), Z)

    sums = (x.astype("int32") - int(X.zero_point)).sum((2, 3), keepdims=True, dtype="int32")
    factor = np.float32(X.scale / np.float32(72)) / Z.scale
    expected = requantize(sums, factor, Z.zero_point)
    mod = _module(x.shape, "uint8", emit)
    after, _ = _realized(mod)
    assert "relax.mean" not in _ops(after)
    np.testing.assert_array_equal(_run(mod, x), expected)


@pytest.mark.parametrize("with_padding", [False, True])
def test_average_pool_is_summed_in_integers(with_padding: bool) -> None:
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        wide = bb.emit(_dequantize(given, X))
        pool = R.nn.avg_pool2d(wide, (3, 3), (2, 2), (1, 1), count_include_pad=with_padding)
        return _quantize(bb.emit(pool), Z)

    centred = np.pad(x.astype("int32") - int(X.zero_point), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(centred, (3, 3), (2, 3))[:, :, ::2, ::2]
    sums = windows.sum((4, 5), dtype="int32")
    rows, columns = np.array([2, 3, 3, 3]), np.array([2, 3, 3, 3, 2])
    counts = 9 if with_padding else np.multiply.outer(rows, columns)
    factor = X.scale / np.asarray(counts, "float32") / Z.scale
    expected = requantize(sums, factor, Z.zero_point)
    np.testing.assert_array_equal(_run(_module(x.shape, "uint8", emit), x), expected)


@pytest.mark.parametrize("second", [X, Y], ids=["one_encoding", "two_encodings"])
def test_concatenated_parts_are_requantized_each(second: Encoding) -> None:
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        shifted = bb.emit(R.maximum(given, relax.const(9, "uint8")))
        parts = [bb.emit(_dequantize(given, X)), bb.emit(_dequantize(shifted, second))]
        return _quantize(bb.emit(R.concat(parts, 1)), X)

    mod = _module(x.shape, "uint8", emit)
    after, _ = _realized(mod)
    joined = [
        str(binding.value.ty.dtype)
        for block in after["main"].body.blocks
        for binding in block.bindings
        if is_op(binding.value, "relax.concat")
    ]
    assert joined == ["uint8"]
    other = second.dequantize(np.maximum(x, 9))
    expected = np.concatenate([x, quantize(other, X.scale, X.zero_point)], 1)
    np.testing.assert_array_equal(_run(mod, x), expected)


def test_what_only_moves_floats_moves_what_they_are_quantized_to() -> None:
    x = RNG.standard_normal((1, 8, 5, 7)).astype("float32")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        turned = bb.emit(R.permute_dims(bb.emit(R.tanh(given)), [0, 2, 3, 1]))
        return _quantize(bb.emit(R.nn.pad(turned, [0, 0, 1, 1, 0, 0, 0, 0])), X)

    after, _ = _realized(_module(x.shape, "float32", emit))
    moved = {
        binding.value.op.name: str(binding.value.ty.dtype)
        for block in after["main"].body.blocks
        for binding in block.bindings
        if is_op(binding.value, "relax.permute_dims", "relax.nn.pad")
    }
    assert moved == {"relax.permute_dims": "uint8", "relax.nn.pad": "uint8"}


MOVES: Mapping[str, Callable[[relax.Expr], relax.Expr]] = {
    "reshape": lambda x: R.reshape(x, (1, -1)),
    "permute_dims": lambda x: R.permute_dims(x, [0, 2, 3, 1]),
    "max_pool2d": lambda x: R.nn.max_pool2d(x, (2, 2), (2, 2)),
    "strided_slice": lambda x: R.strided_slice(x, [2], [1], [5]),
    "resize2d": lambda x: R.image.resize2d(
        x,
        relax.ShapeExpr([16, 18]),
        method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_only_moves_elements_moves_integers(name: str) -> None:
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        moved = bb.emit(MOVES[name](bb.emit(_dequantize(given, X))))
        return _quantize(moved, X)

    mod = _module(x.shape, "uint8", emit)
    after, _ = _realized(mod)
    ops = [op.rpartition(".")[2] for op in _ops(after)]
    assert ops == [name]
    result = _run(mod, x)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(
        result, _run(_module(x.shape, "uint8", lambda _, v: MOVES[name](v)), x)
    )


def test_rows_of_a_quantized_table_are_gathered_as_integers() -> None:
    table = RNG.integers(0, 256, (7, 12)).astype("uint8")

    def emit(bb: relax.BlockBuilder, indices: Any) -> relax.Expr:
        floats = bb.emit(_dequantize(relax.const(table), X))
        return bb.emit(R.take(floats, indices, axis=0))

    mod = _module((5,), "int64", emit)
    after, _ = _realized(mod)
    gathered = next(b.value for b in after["main"].body.blocks[0].bindings)
    assert gathered.op.name == "relax.take"
    assert gathered.args[0].ty.dtype == "uint8"
    indices = np.array([3, 0, 6, 3, 1])
    np.testing.assert_array_equal(_run(mod, indices), X.dequantize(table[indices]))


def test_gate_of_a_quantized_image_is_looked_up() -> None:
    """SiLU, as QDQ files have it: `x * sigmoid(x)`, the sigmoid quantized in between."""
    gate = Encoding.of_range(0.0, 1.0, "uint8")

    def emit(bb: relax.BlockBuilder, x: Any) -> relax.Expr:
        made = bb.emit(_dequantize(x, X))
        sigmoid = bb.emit(_dequantize(bb.emit(_quantize(bb.emit(R.sigmoid(made)), gate)), gate))
        return bb.emit(_quantize(bb.emit(R.multiply(made, sigmoid)), Z))

    mod = _module((1, 8, 6, 8), "uint8", emit)
    after, _ = _realized(mod)
    assert _ops(after) == ["relax.astype", "relax.take"]
    x = RNG.permutation(np.arange(384) % 256).astype("uint8").reshape(1, 8, 6, 8)
    floats = X.dequantize(x)
    inner = gate.round_trip((1 / (1 + np.exp(-floats.astype("float64")))).astype("float32"))
    np.testing.assert_array_equal(_run(mod, x), Z.quantize(floats * inner))


def test_function_of_two_images_is_no_table() -> None:
    def emit(bb: relax.BlockBuilder, x: Any) -> relax.Expr:
        made = bb.emit(_dequantize(x, X))
        other = bb.emit(_dequantize(bb.emit(R.flip(x, axis=3)), X))
        return bb.emit(_quantize(bb.emit(R.multiply(bb.emit(R.sigmoid(made)), other)), Z))

    after, _ = _realized(_module((1, 8, 6, 8), "uint8", emit))
    assert "relax.take" not in _ops(after)


def test_what_stays_in_float_is_quantized_by_the_one_definition() -> None:
    x = RNG.standard_normal((1, 8, 5, 7)).astype("float32")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        back = bb.emit(_dequantize(bb.emit(_quantize(given, X)), X))
        return _quantize(bb.emit(R.sigmoid(back)), Y)

    stored = quantize(x, X.scale, X.zero_point)
    exact = 1 / (1 + np.exp(-dequantize(stored, X.scale, X.zero_point).astype("float64")))
    result = _run(_module(x.shape, "float32", emit), x)
    steps = exact / Y.scale
    # The sigmoid is right to 4 ulp: a step may only differ where it nearly lies in the middle.
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-4
    np.testing.assert_array_equal(result[clear], np.rint(steps)[clear].astype("uint8"))
    assert clear.mean() > 0.99


W8 = Encoding.of_range(-0.9, 1.5, "uint8")
"""Of a weight; from 0 to 255 about 96, which no int8 about 0 holds."""


def _stored(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype("uint8")


def _steps(integers: np.ndarray, encoding: Encoding) -> np.ndarray:
    return integers.astype("int32") - int(encoding.zero_point)


def _requantized(sums: np.ndarray) -> np.ndarray:
    factor = multiplier(X.scale, W8.scale, Z.scale)
    return requantize(sums.astype("int32"), factor, Z.zero_point)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolution_with_weights_about_any_number(groups: int) -> None:
    x, w = _image(8), _stored((16 if groups < 8 else 8, 8 // groups, 3, 3))

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        weight = bb.emit(_dequantize(relax.const(w), W8))
        data = bb.emit(_dequantize(given, X))
        return _quantize(bb.emit(R.nn.conv2d(data, weight, padding=[1] * 4, groups=groups)), Z)

    mod = _module(x.shape, "uint8", emit)
    assert not _realized(mod)[1].report.remarks
    padded = np.pad(_steps(x, X), ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = zip(np.split(padded, groups, 1), np.split(_steps(w, W8), groups, 0), strict=True)
    sums = np.concatenate([_convolve(*both) for both in parts], 1)
    np.testing.assert_array_equal(_run(mod, x), _requantized(sums))


def test_matmul_with_weights_about_any_number() -> None:
    x, w = _stored((5, 32)), _stored((32, 20))

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        weight = bb.emit(_dequantize(relax.const(w), W8))
        return _quantize(bb.emit(R.matmul(bb.emit(_dequantize(given, X)), weight)), Z)

    mod = _module(x.shape, "uint8", emit)
    assert not _realized(mod)[1].report.remarks
    expected = _requantized(_steps(x, X) @ _steps(w, W8))
    np.testing.assert_array_equal(_run(mod, x), expected)


def test_floats_are_multiplied_with_weights_about_any_number() -> None:
    w = _stored((32, 20))

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        return R.matmul(given, bb.emit(_dequantize(relax.const(w), W8)))

    x = RNG.standard_normal((5, 32)).astype("float32")
    exact = x.astype("float64") @ (_steps(w, W8) * np.float64(W8.scale))
    # Sums of 32 products of magnitudes up to 5, in float32.
    np.testing.assert_allclose(_run(_module(x.shape, "float32", emit), x), exact, atol=1e-4)


@pytest.mark.parametrize("source", [X, Y], ids=["zero_within", "zero_lowest"])
@pytest.mark.parametrize("groups", [1, 8])
def test_transposed_convolution(source: Encoding, groups: int) -> None:
    weight = Weight((8, 16 // groups, 3, 3), 1)
    weight.scale = np.resize(weight.scale, 16 // groups)
    weight.bias = RNG.standard_normal(16).astype("float32")
    x = _image(8)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        operands = bb.emit(_dequantize(given, source)), bb.emit(weight.emit())
        conv = R.nn.conv2d_transpose(
            *operands, strides=[2, 2], padding=[1] * 4, output_padding=[1, 1], groups=groups
        )
        biased = bb.emit(R.add(bb.emit(conv), relax.const(along(weight.bias, 1, 4))))
        return _quantize(bb.emit(R.nn.relu(biased)), Z)

    mod = _module(x.shape, "uint8", emit)
    assert not _realized(mod)[1].report.remarks
    wide = np.zeros((1, 8, 19, 21), "int64")
    wide[:, :, 2:17:2, 2:19:2][:, :, :8, :9] = _steps(x, source)
    wide = np.pad(wide, ((0, 0), (0, 0), (0, 0), (0, 0)))[:, :, 1:, 1:]
    kernel = weight.integers[:, :, ::-1, ::-1]
    parts = zip(np.split(wide, groups, 1), np.split(kernel, groups, 0), strict=True)
    sums = np.concatenate([_convolve(one, two.swapaxes(0, 1)) for one, two in parts], 1)
    weight.scale = np.tile(weight.scale, groups)
    expected = weight.requantized(sums, source, Z, 1, low=int(Z.zero_point))
    np.testing.assert_array_equal(_run(mod, x), expected)


def test_convolution_in_one_dimension() -> None:
    weight = Weight((12, 8, 5), 0)
    x = _stored((1, 8, 30))

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        operands = bb.emit(_dequantize(given, X)), bb.emit(weight.emit())
        conv = bb.emit(R.nn.conv1d(*operands, strides=2, padding=[1, 3], dilation=2))
        return _quantize(bb.emit(R.add(conv, relax.const(along(weight.bias, 1, 3)))), Z)

    padded = np.pad(_steps(x, X), ((0, 0), (0, 0), (1, 3)))
    view = np.lib.stride_tricks.sliding_window_view(padded, 9, 2)[:, :, ::2, ::2]
    sums = np.einsum("ncxj,ocj->nox", view, weight.integers.astype("int32"))
    mod = _module(x.shape, "uint8", emit)
    np.testing.assert_array_equal(_run(mod, x), weight.requantized(sums, X, Z, 1))


@pytest.mark.parametrize("depth", [32, 21])
@pytest.mark.parametrize("turned", [False, True])
def test_product_of_two_activations(depth: int, turned: bool) -> None:
    x = _stored((3, 7, depth))
    other = Encoding.of_range(-2.0, 1.0, "uint8")

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        changed = bb.emit(R.minimum(given, relax.const(200, "uint8")))
        if not turned:
            changed = bb.emit(R.reshape(bb.emit(changed), (3, depth, 7)))
        right = bb.emit(_dequantize(changed, other))
        if turned:
            right = bb.emit(R.permute_dims(right, [0, 2, 1]))
        return _quantize(bb.emit(R.matmul(bb.emit(_dequantize(given, X)), right)), Z)

    mod = _module(x.shape, "uint8", emit)
    assert not _realized(mod)[1].report.remarks
    changed = np.minimum(x, 200)
    right = changed.swapaxes(1, 2) if turned else changed.reshape(3, depth, 7)
    sums = np.matmul(_steps(x, X), _steps(right, other), dtype="int32")
    expected = requantize(sums, multiplier(X.scale, other.scale, Z.scale), Z.zero_point)
    np.testing.assert_array_equal(_run(mod, x), expected)


def test_convolution_of_floats_with_a_quantized_weight_is_remarked() -> None:
    weight = Weight((12, 8, 3, 3), 0)

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        return R.nn.conv2d(given, bb.emit(weight.emit()))

    _, ctx = _realized(_module((1, 8, 5, 5), "float32", emit))
    (remark,) = ctx.report.remarks
    assert remark.kind == "missed"
    assert "only its weight is quantized" in remark.message


def test_product_with_one_quantized_operand_is_remarked() -> None:
    weight = relax.const(RNG.standard_normal((32, 20)).astype("float32"))

    def emit(bb: relax.BlockBuilder, given: relax.Expr) -> relax.Expr:
        return R.matmul(bb.emit(_dequantize(given, X)), weight)

    _, ctx = _realized(_module((5, 32), "uint8", emit))
    (remark,) = ctx.report.remarks
    assert remark.kind == "missed"
    assert "only one of its operands is quantized" in remark.message
