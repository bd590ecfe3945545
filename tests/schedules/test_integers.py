"""Products of 8-bit integers added up in int32: every number exact, with and without VNNI."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt import Pass
from tvmopt_plugins.layout import Layout
from tvmopt_plugins.pack_matmul import PackMatmul
from tvmopt_plugins.target_x86 import cpu_info
from tvmopt_schedules.cpu.code.marked_quads import split_excess
from tvmopt_schedules.cpu.code.quads import are_narrow, pack_quads

R = relax.op
LOWERED: Sequence[Pass] = (Layout(), PackMatmul())
NARROW, WHOLE = 64, 128  # largest magnitude of weights


@pytest.fixture(params=["x86-avx512", "x86-avx2"])
def device(request: pytest.FixtureRequest) -> str:
    wanted = {"x86-avx512": "avx512vl", "x86-avx2": "avx2"}[request.param]
    if wanted not in cpu_info.features():
        pytest.skip(f"this CPU has no {wanted}")
    return request.param


def _image(*shape: int, seed: int = 0) -> np.ndarray:
    """Half of the numbers are the largest one, so that sums of 16 bits overflow."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 256, shape)
    return np.where(rng.random(shape) < 0.5, 255, numbers).astype("uint8")


def _weight(*shape: int, largest: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = -largest, min(largest, 127)
    numbers = rng.integers(low, high, shape, endpoint=True)
    extreme = np.where(rng.random(shape) < 0.5, low, high)
    return np.where(rng.random(shape) < 0.5, extreme, numbers).astype("int8")


def _check(made: Compiled, inputs: Sequence[np.ndarray], exact: np.ndarray) -> None:
    np.testing.assert_array_equal(made.run(*inputs)[0], exact)
    assert not made.fallbacks


def _is_narrow(made: Compiled) -> bool:
    return "vpmaddubsw" in made.assembly


@pytest.mark.parametrize("largest", [NARROW, WHOLE])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 64, 100), (37, 24, 130), (5, 7, 3)])
def test_matmul_with_a_constant_weight(
    device: str, rows: int, depth: int, columns: int, largest: int
) -> None:
    x, w = _image(rows, depth), _weight(depth, columns, largest=largest)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.matmul(inputs[0], relax.const(w), out_dtype="int32"))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    _check(made, [x], x.astype("int32") @ w.astype("int32"))
    assert "matmul-packed" in made.rules
    if device == "x86-avx2":
        assert _is_narrow(made) == (largest == NARROW)


@pytest.mark.parametrize("largest", [NARROW, WHOLE])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "groups", "stride"),
    [
        (32, 48, 3, 1, 1),
        (24, 32, 1, 1, 1),
        (3, 16, 5, 1, 2),  # a first layer: quads of planes
        (64, 64, 3, 2, 1),
        (18, 20, 3, 1, 1),  # neither fills its blocks
        (24, 24, 3, 4, 1),  # groups of 6 channels are no quads
        (40, 40, 3, 40, 2),  # depthwise
    ],
)
def test_convolution(
    device: str, channels: int, out: int, kernel: int, groups: int, stride: int, largest: int
) -> None:
    x = _image(1, channels, 9, 10)
    w = _weight(out, channels // groups, kernel, kernel, largest=largest)
    pad = kernel // 2

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = R.nn.conv2d(
            inputs[0], relax.const(w), [stride] * 2, [pad] * 4, groups=groups, out_dtype="int32"
        )
        return bb.emit(bb.emit(conv))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    _check(made, [x], _convolve(x.astype("int32"), w.astype("int32"), stride, pad, groups))
    products = {layer.products for layer in made.layers if "conv2d" in layer.kernel}
    assert products == {"int8"}


def _rarely_large(*shape: int, largest: int) -> np.ndarray:
    """Small weights, and in few places four neighbours of the largest magnitude and one sign."""
    rng = np.random.default_rng(2)
    weight = rng.integers(-24, 24, shape, endpoint=True)
    channels = np.where(rng.random((shape[0], 1, *shape[2:])) < 0.02, largest, 0)
    weight[:, :8] = np.where(channels > 0, channels, weight[:, :8])
    return np.minimum(np.where(rng.random(shape) < 0.5, weight, -weight), 127).astype("int8")


@pytest.mark.parametrize(
    ("largest", "words"),
    [(NARROW, "vpaddw"), (WHOLE, "vpmaddubsw")],
    ids=["two sums in 16 bits", "one sum in 16 bits"],
)
@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [(48, 3, 1), (64, 1, 1), (40, 1, 1), (64, 3, 2)]
)
def test_what_exceeds_16_bits_is_added_apart(
    device: str, channels: int, kernel: int, groups: int, largest: int, words: str
) -> None:
    x = np.full((1, channels, 9, 14), 255, "uint8")
    w = _rarely_large(64, channels // groups, kernel, kernel, largest=largest)
    pad = kernel // 2

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = R.nn.conv2d(
            inputs[0], relax.const(w), padding=[pad] * 4, groups=groups, out_dtype="int32"
        )
        return bb.emit(bb.emit(conv))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    _check(made, [x], _convolve(x.astype("int32"), w.astype("int32"), 1, pad, groups))
    if device == "x86-avx2":
        assert words in made.assembly
        assert not re.search(r"vmovdq\S*\t%ymm\d+, \S*\(%rsp\)", made.assembly)


@pytest.mark.parametrize(("quads", "largest"), [(1, 127), (2, 64)])
def test_fitting_weights_and_their_excess_are_the_weights(quads: int, largest: int) -> None:
    packed = _weight(3, 2, 16, 8, largest=largest)
    split = split_excess(packed, quads)
    assert np.abs(_sums_of_one_sign(split.fitting, quads)).max() == 128
    assert np.abs(_sums_of_one_sign(split.excess, quads)).max() <= 128
    assert not split.excess[0].any()
    excess = split.excess[split.marks].reshape(packed.shape)
    np.testing.assert_array_equal(split.fitting + excess, packed)


def _sums_of_one_sign(weights: np.ndarray, quads: int) -> np.ndarray:
    """What goes into a sum of 16 bits: pairs of `quads` neighbouring quads."""
    *outer, factor, block = weights.shape
    words = weights.astype(int).reshape(*outer, factor // (4 * quads), quads, 2, 2, block)
    return np.stack([np.maximum(words, 0).sum((-4, -2)), np.minimum(words, 0).sum((-4, -2))])


def test_operations_of_integers_are_counted_like_those_of_floats(device: str) -> None:
    x, w = _image(1, 64, 9, 14), _rarely_large(64, 64, 3, 3, largest=NARROW)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(bb.emit(R.nn.conv2d(inputs[0], relax.const(w), out_dtype="int32")))

    layers = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED).layers
    (layer,) = [one for one in layers if "conv2d" in one.kernel]
    assert layer.products == "int8"
    assert layer.flops == 2 * 64 * 64 * 9 * (9 - 2) * (14 - 2)


def test_looked_up_image_is_padded_by_the_kernel_that_reads_it(device: str) -> None:
    """Squeeze-excite networks: convolution, table, depthwise convolution with another zero."""
    x, w = _image(1, 16, 9, 10), _weight(16, 16, 1, 1, largest=24)
    deep = _weight(16, 1, 3, 3, largest=NARROW, seed=3)
    table = np.random.default_rng(4).permutation(256).astype("uint8")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        sums = bb.emit(R.nn.conv2d(inputs[0], relax.const(w), out_dtype="int32"))
        scaled = bb.emit(R.multiply(bb.emit(R.astype(sums, "float32")), relax.const(0.01)))
        limited = bb.emit(R.clip(scaled, relax.prim_value(-100.0), relax.prim_value(155.0)))
        whole = bb.emit(R.add(bb.emit(R.astype(bb.emit(R.round(limited)), "int32")), _HUNDRED))
        index = bb.emit(R.astype(bb.emit(R.astype(whole, "uint8")), "int32"))
        found = bb.emit(R.take(relax.const(table), index, axis=0))
        padded = bb.emit(R.nn.pad(found, [0, 0, 0, 0, 1, 1, 1, 1], pad_value=93))
        return bb.emit(R.nn.conv2d(padded, relax.const(deep), groups=16, out_dtype="int32"))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    sums = _convolve(x.astype("int32"), w.astype("int32"), 1, 0, 1).astype("float32")
    index = np.rint(np.clip(sums * np.float32(0.01), -100, 155)).astype("int32") + 100
    wide = np.pad(table[index], ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=93)
    _check(made, [x], _convolve(wide.astype("int32"), deep.astype("int32"), 1, 0, 16))
    assert len(made.rules) == 3  # into the layout, and both convolutions


_HUNDRED = relax.const(100, "int32")


def test_padding_holds_the_number_that_stands_for_zero(device: str) -> None:
    x, w = _image(1, 16, 9, 10), _weight(32, 16, 3, 3, largest=NARROW)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        padded = bb.emit(R.nn.pad(inputs[0], [0, 0, 0, 0, 1, 1, 1, 1], pad_value=93))
        return bb.emit(bb.emit(R.nn.conv2d(padded, relax.const(w), out_dtype="int32")))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=93).astype("int32")
    _check(made, [x], _convolve(wide, w.astype("int32"), 1, 0, 1))
    assert len(made.rules) == 2  # into the layout, and the convolution with the way out of it


def _convolve(x: np.ndarray, w: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    view = view[:, :, ::stride, ::stride]
    parts = zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)
    return np.concatenate([np.einsum("ncyxij,ocij->noyx", v, k) for v, k in parts], 1)


def test_max_pooling_of_integers(device: str) -> None:
    x = np.random.default_rng(0).integers(0, 200, (1, 24, 9, 10)).astype("uint8")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(bb.emit(R.nn.max_pool2d(inputs[0], (3, 3), (2, 2), (1, 1))))

    made = compile_relax(device, [(x.shape, "uint8")], emit, LOWERED)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    _check(made, [x], view.max((4, 5)))


def test_rounding_to_integers_is_to_even(device: str) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999998, 1e9, -1e9, 0.0, 254.5] * 4, "float32")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.astype(R.round(inputs[0]), "int32"))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    _check(made, [x], np.rint(x).astype("int32"))
    assert "vcvtps2dq" in made.assembly


@pytest.mark.parametrize("size", [8, 3])
def test_nan_is_quantized_to_the_lowest_number(device: str, size: int) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.5, -3.5, 300, np.nan, 1][:size], "float32")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        steps = R.astype(R.round(R.clip(inputs[0], -5.0, 250.0)), "int32")
        return bb.emit(R.astype(R.add(steps, relax.const(5, "int32")), "uint8"))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    known = np.array([0, 255, 0, 9, 1, 255, 0, 6][:size], "uint8")
    _check(made, [x], known)


@pytest.mark.parametrize("zero", [0, 7])
def test_quantized_sums_are_packed_with_saturation(device: str, zero: int) -> None:
    x = np.array(
        [-1e20, -3e5, -130.5, -8.0, -0.5, 0.5, 1.5, 100.2, 254.5, 3e5, 1e20] * 8, "float32"
    )
    low, high = -float(zero), 255.0 - zero

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        limited = bb.emit(R.clip(inputs[0], relax.prim_value(low), relax.prim_value(high)))
        whole = bb.emit(R.astype(bb.emit(R.round(limited)), "int32"))
        return bb.emit(R.astype(R.add(whole, relax.const(zero, "int32")), "uint8"))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    _check(made, [x], (np.rint(np.clip(x, low, high)) + zero).astype("uint8"))
    if device == "x86-avx2":
        assert "vpackuswb" in made.assembly
        assert "vmaxps" not in made.assembly


def test_quantized_number_is_dequantized_in_registers(device: str) -> None:
    x = np.random.default_rng(5).uniform(-20, 20, 64).astype("float32")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        limited = bb.emit(R.clip(inputs[0], relax.prim_value(-9.0), relax.prim_value(15.0)))
        whole = bb.emit(R.astype(bb.emit(R.round(limited)), "int32"))
        stored = bb.emit(R.astype(R.add(whole, relax.const(9, "int32")), "uint8"))
        return bb.emit(R.subtract(bb.emit(R.astype(stored, "float32")), relax.const(9.0)))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    _check(made, [x], np.rint(np.clip(x, -9, 15)))
    assert not re.search(r"vpackus|vpshufb|vpaddd|vsubps|vaddps", made.assembly)


def test_vnni_multiplies_without_leaving_the_registers() -> None:
    """Compiled, not run: any machine can."""
    w = _weight(256, 256, largest=WHOLE)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.matmul(inputs[0], relax.const(w), out_dtype="int32"))

    made = compile_relax("x86-vnni", [((128, 256), "uint8")], emit, LOWERED, cores=1)
    assert made.assembly.count("vpdpbusd") >= 14  # one for each accumulator of the tile
    assert not re.search(r"vmovdq\S*\t%zmm\d+, \S*\(%rsp\)", made.assembly)


def test_vnni_convolution_needs_no_narrow_weights() -> None:
    """Compiled, not run: any machine can."""
    w = _rarely_large(256, 256, 3, 3, largest=WHOLE)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(
            bb.emit(R.nn.conv2d(inputs[0], relax.const(w), padding=[1] * 4, out_dtype="int32"))
        )

    made = compile_relax("x86-vnni", [((1, 256, 14, 14), "uint8")], emit, LOWERED, cores=1)
    assert made.assembly.count("vpdpbusd") >= 14
    assert "vpmaddubsw" not in made.assembly
    assert not re.search(r"vmovdq\S*\t%zmm\d+, \S*\(%rsp\)", made.assembly)


def test_weights_are_narrow_where_no_two_products_overflow_16_bits() -> None:
    assert are_narrow(np.array([64, 64, -64, -64], "int8"), 0)
    assert are_narrow(np.array([127, 1, -127, -1], "int8"), 0)
    assert are_narrow(np.array([-128, 127, 0, 0], "int8"), 0)  # of opposite signs
    assert not are_narrow(np.array([0, 0, 65, 64], "int8"), 0)
    assert not are_narrow(np.array([-128, -1, 0, 0], "int8"), 0)


def test_quads_keep_the_order_of_their_numbers() -> None:
    packed = pack_quads(np.array([[1, 2, 3, 4], [-1, -2, -3, -4]], "int8").T, 0)
    np.testing.assert_array_equal(packed, np.array([[0x04030201, -0x03020101]], "int32"))
