"""Depthwise convolution and pooling on blocked channels, against NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from images import conv2d, windows
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.layout import Layout
from tvmopt_schedules.cpu.convolution.window_rule import cut_for_cores

R = relax.op
SIDES = st.sampled_from([1, 3, 7, 8, 13, 16, 19, 30])
KERNELS = st.sampled_from([(1, 1), (3, 3), (2, 2), (3, 2), (5, 5), (7, 7), (1, 9)])
PAIRS = st.tuples(st.integers(1, 2), st.integers(1, 2))
quick = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(device: str, shape: tuple[int, ...], emit: Any) -> Compiled:
    def body(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(emit(inputs[0]))

    return compile_relax(device, [(shape, "float32")], body, [Layout()])


def _padding(kernel: tuple[int, int], dilation: tuple[int, int], extra: int) -> tuple[int, ...]:
    """About half a window on each side: every window meets the image."""
    ends = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    return (ends[0] // 2, ends[1] // 2, ends[0] // 2 + extra, ends[1] // 2 + extra)


@quick
@given(
    channels=st.integers(2, 70),
    height=SIDES,
    width=SIDES,
    kernel=KERNELS,
    strides=PAIRS,
    dilation=PAIRS,
    extra=st.integers(0, 1),
    batch=st.integers(1, 2),
)
@example(70, 16, 16, (3, 3), (1, 1), (1, 1), 0, 2)
@example(24, 19, 30, (7, 7), (1, 1), (1, 1), 0, 1)
@example(16, 30, 30, (11, 31), (1, 1), (1, 1), 0, 1)
def test_depthwise_convolutions(
    device: str,
    channels: int,
    height: int,
    width: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    extra: int,
    batch: int,
) -> None:
    padding = _padding(kernel, dilation, extra)
    if min(height, width) + extra < 2:  # with even windows nothing would be left
        padding = (*kernel, *(k * 2 for k in kernel))
    image, weight = _data(batch, channels, height, width), _data(channels, 1, *kernel, seed=1)
    bias = _data(1, channels, 1, 1, seed=2)

    def emit(x: relax.Expr) -> relax.Expr:
        conv = R.nn.conv2d(
            x,
            relax.const(weight),
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=channels,
        )
        return R.nn.relu(R.add(conv, relax.const(bias)))

    made = _compile(device, image.shape, emit)
    exact = np.maximum(conv2d(image, weight, strides, padding, dilation, channels) + bias, 0)
    bound = kernel[0] * kernel[1] * 2.0**-24 * 25 + 1e-6
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-5, atol=bound)
    assert "window-nchwc" in made.rules


@quick
@given(
    channels=st.integers(8, 40),
    height=SIDES,
    width=SIDES,
    kernel=st.sampled_from([(1, 1), (2, 2), (3, 3), (3, 2), (5, 5)]),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ceil=st.booleans(),
)
def test_max_pooling(
    device: str,
    channels: int,
    height: int,
    width: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    ceil: bool,
) -> None:
    image = _data(1, channels, height, width) - 3  # negative: padding with zeros would show
    padding = _padding(kernel, (1, 1), 0)

    def emit(x: relax.Expr) -> relax.Expr:
        return R.nn.max_pool2d(x, kernel, strides, padding, ceil_mode=ceil)

    if min(height + 2 * padding[0] - kernel[0], width + 2 * padding[1] - kernel[1]) < 0:
        return
    made = _compile(device, image.shape, emit)
    result = made.run(image)[0]
    ends = [
        max(0, (result.shape[2 + i] - 1) * strides[i] + kernel[i] - padding[i] - image.shape[2 + i])
        for i in (0, 1)
    ]
    seen = windows(image, kernel, strides, (*padding[:2], *ends), (1, 1), fill=-np.inf)
    exact = seen.max(axis=(4, 5))[:, :, : result.shape[2], : result.shape[3]]
    np.testing.assert_array_equal(result, exact.astype("float32"))
    assert "window-nchwc" in made.rules


@pytest.mark.parametrize("kernel", [(3, 3), (9, 31)])
def test_the_largest_of_infinities_is_infinite(device: str, kernel: tuple[int, int]) -> None:
    image = np.full((1, 16, 12, 36), -np.inf, "float32")
    image[0, 3, 0, 0] = np.inf
    padding = _padding(kernel, (1, 1), 0)
    made = _compile(device, image.shape, lambda x: R.nn.max_pool2d(x, kernel, (1, 1), padding))
    seen = windows(image, kernel, (1, 1), padding, (1, 1), fill=-np.inf)
    np.testing.assert_array_equal(made.run(image)[0], seen.max(axis=(4, 5)).astype("float32"))
    assert made.rules.count("window-nchwc") == 1


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_average_pooling_divides_by_what_counts(
    device: str,
    include: bool,
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> None:
    image = _data(2, 20, 9, 11)

    def emit(x: relax.Expr) -> relax.Expr:
        return R.nn.avg_pool2d(x, (3, 3), (2, 1), padding, dilation, count_include_pad=include)

    made = _compile(device, image.shape, emit)
    total = windows(image, (3, 3), (2, 1), padding, dilation).sum(axis=(4, 5))
    ones = np.ones((1, 1, 9, 11))
    count = windows(ones, (3, 3), (2, 1), padding, dilation).sum(axis=(4, 5))
    exact = total / (9 if include else count)
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-5, atol=1e-6)
    assert "window-nchwc" in made.rules


def test_average_pooling_that_rounds_up_counts_the_padding_it_was_given(device: str) -> None:
    # ONNX: a window that juts out over the padding divides by what lies inside of it.
    image = np.ones((1, 16, 6, 6), "float32")

    def emit(x: relax.Expr) -> relax.Expr:
        return R.nn.avg_pool2d(
            x, (3, 3), (2, 2), (0, 0, 0, 0), ceil_mode=True, count_include_pad=True
        )

    result = _compile(device, image.shape, emit).run(image)[0]
    np.testing.assert_allclose(result, np.ones((1, 16, 3, 3)), rtol=1e-6)


@pytest.mark.parametrize("channels", [16, 37, 512])
@pytest.mark.parametrize("keepdims", [True, False])
def test_global_average_pooling(
    device: str,
    channels: int,
    keepdims: bool,
) -> None:
    image = _data(2, channels, 7, 5)
    weight = np.ones((channels, 1, 1, 1), "float32") * 2

    def emit(x: relax.Expr) -> relax.Expr:
        inside = R.nn.conv2d(x, relax.const(weight), groups=channels)
        return R.mean(inside, axis=[2, 3], keepdims=keepdims)

    made = _compile(device, image.shape, emit)
    exact = 2 * image.astype("float64").mean(axis=(2, 3), keepdims=keepdims)
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-5, atol=1e-6)
    assert made.rules.count("window-nchwc") == 2
    assert not made.fallbacks


def test_adaptive_pooling_to_a_divisor(device: str) -> None:
    image = _data(1, 16, 8, 12)
    weight = np.ones((16, 1, 1, 1), "float32")

    def emit(x: relax.Expr) -> relax.Expr:
        inside = R.nn.conv2d(x, relax.const(weight), groups=16)
        return R.nn.adaptive_avg_pool2d(inside, (4, 3))

    made = _compile(device, image.shape, emit)
    exact = image.reshape(1, 16, 4, 2, 3, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(made.run(image)[0], exact, rtol=1e-5, atol=1e-6)
    assert made.rules.count("window-nchwc") == 2


def test_a_row_of_results_stays_in_registers(device: str) -> None:
    weight = _data(32, 1, 3, 3)

    def emit(x: relax.Expr) -> relax.Expr:
        return R.nn.conv2d(x, relax.const(weight), padding=1, groups=32)

    made = _compile(device, (1, 32, 28, 28), emit)
    register = "%zmm" if device == "x86-avx512" else "%ymm"
    products = [line for line in made.assembly.splitlines() if "vfmadd" in line]
    assert len([line for line in products if register in line]) >= 3 * 7


@pytest.mark.parametrize(
    ("images", "height", "blocks", "cores", "cut"),
    [
        (1, 14, 36, 2, (2, 36)),  # rows: half of them each
        (1, 7, 60, 2, (1, 30)),  # 7 rows are not even: channels
        (1, 1, 2, 2, (1, 1)),  # global pooling
        (4, 14, 36, 2, (1, 36)),  # images
        (1, 14, 36, 4, (1, 9)),
        (1, 7, 3, 2, (1, 1)),  # nothing comes out even: the most pieces
        (1, 14, 36, 1, (1, 36)),
    ],
)
def test_cores_share_rows_where_they_come_out_even(
    images: int, height: int, blocks: int, cores: int, cut: tuple[int, int]
) -> None:
    assert cut_for_cores(images, height, blocks, cores) == cut
