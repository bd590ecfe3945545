"""Convolutions on blocked channels, through the layout pass, against NumPy."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from images import conv2d, conv2d_transposed
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.layout import Layout
from tvmopt_schedules.cpu.convolution.conv2d_tile import ConvShape, ConvTile, conv_tile, division
from tvmopt_schedules.cpu.machine import Machine

R = relax.op
AVX512 = Machine(lanes=16, registers=32, cores=2, l1_bytes=48 << 10, l2_bytes=2 << 20)
AVX2 = Machine(lanes=8, registers=16, cores=2, l1_bytes=32 << 10, l2_bytes=1 << 20)

Epilogue = Callable[[relax.Expr], relax.Expr]


@dataclass(frozen=True)
class Case:
    """One convolution."""

    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.channels // self.groups, *self.kernel)

    def fits(self) -> bool:
        """Whether the window fits the padded image."""
        top, left, bottom, right = self.padding
        return (self.kernel[0] - 1) * self.dilation[0] < self.height + top + bottom and (
            self.kernel[1] - 1
        ) * self.dilation[1] < self.width + left + right


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(
    device: str, case: Case, weight: np.ndarray, epilogue: Epilogue, cores: int | None
) -> Compiled:
    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = R.nn.conv2d(
            inputs[0],
            relax.const(weight),
            strides=case.strides,
            padding=case.padding,
            dilation=case.dilation,
            groups=case.groups,
        )
        return bb.emit(epilogue(bb.emit(conv)))

    shape = (case.batch, case.channels, case.height, case.width)
    return compile_relax(device, [(shape, "float32")], emit, [Layout(winograd="off")], cores)


def _check(
    device: str,
    case: Case,
    epilogue: Epilogue = lambda y: y,
    reference: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    cores: int | None = None,
) -> Compiled:
    weight = _data(*case.weight_shape, seed=1)
    image = _data(case.batch, case.channels, case.height, case.width)
    made = _compile(device, case, weight, epilogue, cores)
    exact = conv2d(image, weight, case.strides, case.padding, case.dilation, case.groups)
    exact = reference(exact)
    # Sums of K products round to about K * 2^-24 of their terms' sizes, which stay under 25 here.
    bound = np.prod(case.weight_shape[1:]) * 2.0**-24 * 25 + 1e-6
    result = made.run(image)[0]
    assert result.shape == exact.shape
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=bound)
    return made


CHANNELS = st.integers(1, 70)
SIDES = st.sampled_from([1, 2, 5, 7, 11, 13, 14, 17, 23])
KERNELS = st.sampled_from([(1, 1), (3, 3), (3, 2), (5, 5), (1, 7)])
PAIRS = st.tuples(st.integers(1, 2), st.integers(1, 2))
PADDINGS = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.builds(Case, CHANNELS, CHANNELS, SIDES, SIDES, KERNELS, PAIRS, PADDINGS, PAIRS).filter(
        Case.fits
    )
)
@example(case=Case(64, 64, 7, 7, padding=(1, 1, 1, 1)))
@example(case=Case(70, 37, 17, 17, (1, 1)))
@example(case=Case(64, 96, 14, 14, (1, 1)))
def test_any_shape_is_convolved(device: str, case: Case) -> None:
    made = _check(device, case)
    assert "conv2d-nchwc" in made.rules


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(2, 8),
    inner=st.integers(1, 9),
    outer=st.integers(1, 20),
    side=SIDES,
    strides=PAIRS,
)
@example(groups=4, inner=8, outer=16, side=9, strides=(1, 1))
@example(groups=32, inner=4, outer=4, side=7, strides=(1, 1))
def test_groups_are_convolved_apart(
    device: str, groups: int, inner: int, outer: int, side: int, strides: tuple[int, int]
) -> None:
    assume(inner > 1 or outer > 1)
    case = Case(groups * inner, groups * outer, side, side, (3, 3), strides, (1, 1, 1, 1))
    case = Case(**{**case.__dict__, "groups": groups})
    assert "conv2d-nchwc" in _check(device, case).rules


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize(
    "case",
    [
        Case(16, 32, 24, 20, padding=(1, 1, 1, 1), batch=2),
        Case(32, 48, 13, 13, padding=(1, 1, 1, 1), batch=3),
        Case(3, 20, 37, 41, (7, 7), (2, 2), (3, 3, 3, 3), batch=2),
        Case(40, 24, 12, 10, (1, 1), batch=2),
    ],
)
def test_batches_are_spread_over_cores(device: str, case: Case, cores: int) -> None:
    _check(device, case, cores=cores)


def test_a_first_layer_reads_the_plain_image(device: str) -> None:
    made = _check(device, Case(3, 32, 32, 32, (3, 3), (2, 2), (1, 1, 1, 1)))
    assert made.rules == ["conv2d-nchwc"]  # which pads it, too


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_bias_residual_and_activation_join_the_kernel(device: str, kernel: tuple[int, int]) -> None:
    bias = _data(1, 37, 1, 1, seed=2)
    scale = _data(1, 37, 1, 1, seed=3)

    def epilogue(y: relax.Expr) -> relax.Expr:
        shifted = R.add(y, relax.const(bias))
        return R.nn.relu(R.add(R.multiply(shifted, relax.const(scale)), shifted))

    def reference(y: np.ndarray) -> np.ndarray:
        return np.maximum((y + bias) * scale + y + bias, 0)

    pad = kernel[0] // 2
    made = _check(
        device, Case(32, 37, 9, 13, kernel, padding=(pad, pad, pad, pad)), epilogue, reference
    )
    assert made.rules.count("conv2d-nchwc") == 1
    assert not made.fallbacks


def test_silu_is_computed_on_the_accumulators(device: str) -> None:
    made = _check(
        device,
        Case(32, 32, 14, 14, padding=(1, 1, 1, 1)),
        lambda y: R.nn.silu(y),
        lambda y: y / (1 + np.exp(-y)),
    )
    assert made.kernels == 2  # blocking the input; everything else with the way back


def test_padding_lanes_that_become_nan_reach_no_result(device: str) -> None:
    # log(|y|) is -inf where a block of channels is filled up with zeros.
    second = _data(24, 5, 3, 3, seed=4)

    def epilogue(y: relax.Expr) -> relax.Expr:
        logs = R.log(R.abs(y))
        return R.nn.conv2d(logs, relax.const(second), padding=1)

    def reference(y: np.ndarray) -> np.ndarray:
        return conv2d(np.log(np.abs(y)), second, padding=(1, 1, 1, 1))

    weight = _data(5, 20, 1, 1, seed=1)
    image = _data(1, 20, 6, 6)
    case = Case(20, 5, 6, 6, (1, 1))
    made = _compile(device, case, weight, epilogue, None)
    exact = reference(conv2d(image, weight))
    # 45 products of logs; the first convolution's rounding is magnified where |y| is small.
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    side=st.integers(1, 9),
    kernel=st.sampled_from([(2, 2), (3, 3), (4, 4), (5, 3), (1, 1)]),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 1)] * 4),
    extra=st.integers(0, 1),
)
def test_transposed_convolutions_are_one_convolution(
    device: str,
    channels: int,
    outputs: int,
    side: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    extra: int,
) -> None:
    output_padding = (min(extra, strides[0] - 1), min(extra, strides[1] - 1))
    image, weight = _data(1, channels, side, side + 1), _data(channels, outputs, *kernel, seed=1)
    exact = conv2d_transposed(image, weight, strides, padding, output_padding)
    assume(min(exact.shape) > 0)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(
            R.nn.conv2d_transpose(
                inputs[0],
                relax.const(weight),
                strides=strides,
                padding=padding,
                output_padding=output_padding,
            )
        )

    made = compile_relax(device, [(image.shape, "float32")], emit, [Layout(winograd="off")])
    assert "conv2d-nchwc" in made.rules
    bound = channels * weight[0, 0].size * 2.0**-24 * 25 + 1e-6
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-5, atol=bound)


def test_the_inner_loop_multiplies_in_registers(device: str) -> None:
    """Nothing is stored between the multiplications of a tile, as spilling would."""
    made = _check(device, Case(64, 64, 28, 28, padding=(1, 1, 1, 1)))
    register = "%zmm" if device == "x86-avx512" else "%ymm"
    stretches = re.split(r"^\S+:.*$", made.assembly, flags=re.MULTILINE)
    most = max(stretches, key=lambda text: text.count("vfmadd")).splitlines()
    products = [at for at, line in enumerate(most) if "vfmadd" in line]
    assert len(products) >= 10
    assert all(register in most[at] for at in products)
    between = most[products[0] : products[-1]]
    assert not [line for line in between if re.search(r"vmov[au]ps\s+%[yz]mm\d+, .*\(", line)]


def test_large_weights_are_asked_for_ahead(device: str) -> None:
    large = _check(device, Case(256, 256, 4, 4, padding=(1, 1, 1, 1)))
    small = _check(device, Case(16, 16, 4, 4, padding=(1, 1, 1, 1)))
    assert "prefetch" in large.assembly
    assert "prefetch" not in small.assembly


def test_large_images_are_asked_for_ahead(device: str) -> None:
    # 2.4 MiB of input, over half of any level-2 cache here; 16 and 32 KiB of weights are near.
    large = _check(device, Case(128, 32, 69, 69, (1, 1)))
    small = _check(device, Case(128, 32, 9, 9, (1, 1)))
    assert "prefetch" in large.assembly
    assert "prefetch" not in small.assembly


def test_a_large_residual_is_asked_for_ahead(device: str) -> None:
    weight = _data(64, 16, 1, 1, seed=1)
    image, other = _data(1, 16, 57, 53), _data(1, 64, 57, 53, seed=2)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = bb.emit(R.nn.conv2d(inputs[0], relax.const(weight)))
        return bb.emit(R.nn.relu(bb.emit(R.add(conv, R.nn.relu(inputs[1])))))

    shapes = [(image.shape, "float32"), (other.shape, "float32")]
    made = compile_relax(device, shapes, emit, [Layout()])
    exact = np.maximum(conv2d(image, weight) + np.maximum(other, 0), 0)
    # 16 products and a sum, each of size 25 at most.
    np.testing.assert_allclose(made.run(image, other)[0], exact, rtol=1e-5, atol=17 * 2.0**-24 * 25)
    assert "prefetch" in made.assembly


def _shape(rows: int, pixels: int, blocks: int, reduction: int) -> ConvShape:
    return ConvShape(
        rows=rows,
        pixels=pixels,
        out_blocks=blocks,
        group_blocks=blocks,
        reduction=reduction,
        input_bytes=1 << 18,
        weight_bytes=1 << 18,
        images=1,
    )


@settings(max_examples=100)
@given(
    rows=st.integers(1, 60),
    pixels=st.integers(1, 3000),
    blocks=st.integers(1, 130),
    reduction=st.integers(1, 9000),
    machine=st.sampled_from([AVX512, AVX2]),
)
def test_tiles_fit_the_registers(
    rows: int, pixels: int, blocks: int, reduction: int, machine: Machine
) -> None:
    tile = conv_tile(machine, _shape(rows, pixels, blocks, reduction))
    accumulators = tile.rows * tile.pixels * tile.blocks
    assert accumulators + tile.blocks + 1 <= machine.registers
    assert blocks % tile.blocks == 0
    assert tile.rows == 1 or tile.pixels == pixels


def test_common_layers_get_full_tiles() -> None:
    assert conv_tile(AVX512, _shape(56, 56, 4, 576)) == ConvTile(1, 14, 2)
    assert conv_tile(AVX512, _shape(7, 7, 32, 4608)) == ConvTile(2, 7, 2)
    assert conv_tile(AVX2, _shape(56, 56, 8, 576)) == ConvTile(1, 6, 2)


def test_a_scalar_in_a_register_is_multiplied_with_two_vectors() -> None:
    assert conv_tile(AVX2, _shape(7, 7, 64, 4608)) == ConvTile(1, 4, 2)
    assert conv_tile(AVX2, _shape(1, 3136, 7, 64)).pixels <= 8  # 7 blocks have no even divisor


def test_chunks_stay_in_the_level_2_cache() -> None:
    large = ConvShape(224, 224, 4, 4, 576, 13 << 20, 147 << 10, 1)
    _, chunk = division(AVX512, large)
    assert (13 << 20) * chunk.size / 224 <= AVX512.l2_bytes / 2
    assert chunk.by_chunk
    heavy = ConvShape(7, 7, 32, 32, 4608, 166 << 10, 9 << 20, 1)
    assert division(AVX512, heavy)[1].size == 7


def test_one_row_is_one_chunk_however_long_it_is() -> None:
    line = ConvShape(1, 26, 32, 32, 2048, 108 << 10, 4 << 20, 1, is_line=True)
    assert division(AVX512, line)[1].size == 1


@pytest.mark.parametrize(
    "shape",
    [
        # MobileNetV2: no 196 pixels are an even number of chunks of whole tiles, 9 blocks of
        # channels are three tiles; ResNet: 7 rows.
        ConvShape(1, 196, 6, 6, 576, 196 * 576 * 4, 576 * 96 * 4, 1),
        ConvShape(1, 3136, 9, 9, 24, 3136 * 32 * 4, 24 * 144 * 4, 1),
        ConvShape(1, 49, 20, 20, 960, 49 * 960 * 4, 960 * 320 * 4, 1),
        ConvShape(7, 7, 32, 32, 4608, 166 << 10, 9 << 20, 1),
        ConvShape(14, 14, 16, 16, 2304, 256 << 10, 2304 << 10, 1),
        ConvShape(7, 7, 6, 6, 576, 81 * 64 * 4, 576 * 96 * 4, 2),
    ],
)
@pytest.mark.parametrize("cores", [2, 4])
def test_cores_come_out_even(shape: ConvShape, cores: int) -> None:
    tile, chunk = division(replace(AVX512, cores=cores), shape)
    extent = shape.rows if shape.rows > 1 else shape.pixels
    pieces = shape.images * extent // chunk.size
    if not chunk.by_chunk:
        pieces *= shape.out_blocks // tile.blocks
    busiest = -(-pieces // cores)
    assert busiest * cores <= 1.15 * pieces
