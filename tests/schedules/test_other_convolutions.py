"""Convolutions that become blocked ones: grouped transposed, and over one and three dimensions."""

from typing import Any

import numpy as np
import pytest
from images import conv2d, conv2d_transposed
from schedule_harness import Compiled, Emit, compile_relax
from tvm import relax

from tvmopt_plugins.layout import Layout

R: Any = relax.op
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}  # sums in another order


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(device: str, shape: tuple[int, ...], emit: Emit) -> Compiled:
    return compile_relax(device, [(shape, "float32")], emit, (Layout(),))


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"),
    [(2, 8, 40), (4, 12, 8), (20, 20, 20), (2, 32, 32), (4, 4, 12)],
    ids=["no whole blocks", "few channels", "depthwise", "whole blocks", "multiplier"],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_groups_are_transposed_apart(
    device: str, groups: int, inputs: int, outputs: int, stride: int
) -> None:
    image = _data(1, inputs, 5, 6)
    weight = _data(inputs, outputs // groups, 3, 3, seed=1)
    strides, padding, extra = (stride, stride), (1, 1, 1, 1), (stride - 1, stride - 1)
    parts = zip(np.split(image, groups, axis=1), np.split(weight, groups), strict=True)
    exact = np.concatenate(
        [conv2d_transposed(x, w, strides, padding, extra) for x, w in parts], axis=1
    )

    def emit(bb: relax.BlockBuilder, given: Any) -> relax.Expr:
        call = R.nn.conv2d_transpose(
            given[0],
            relax.const(weight),
            strides=strides,
            padding=padding,
            output_padding=extra,
            groups=groups,
        )
        return R.nn.relu(bb.emit(call))

    made = _compile(device, image.shape, emit)
    np.testing.assert_allclose(made.run(image)[0], np.maximum(exact, 0), **CLOSE)
    assert not made.fallbacks
    assert {"conv2d-nchwc", "window-nchwc"} & set(made.rules)


def _conv3d(
    image: np.ndarray,
    weight: np.ndarray,
    strides: tuple[int, int, int],
    padding: tuple[int, ...],
    dilation: tuple[int, int, int],
    groups: int,
) -> np.ndarray:
    """The sum over the kernel's planes of convolutions of the image's planes."""
    front, top, left, back, bottom, right = padding
    deep = np.pad(image, ((0, 0), (0, 0), (front, back), (0, 0), (0, 0)))
    reach = (weight.shape[2] - 1) * dilation[0] + 1
    planes = []
    for begin in range(0, deep.shape[2] - reach + 1, strides[0]):
        terms = [
            conv2d(
                deep[:, :, begin + k * dilation[0]],
                weight[:, :, k],
                strides[1:],
                (top, left, bottom, right),
                dilation[1:],
                groups,
            )
            for k in range(weight.shape[2])
        ]
        planes.append(sum(terms))
    return np.stack(planes, axis=2)


@pytest.mark.parametrize(
    ("batch", "strides", "padding", "dilation", "groups"),
    [
        (1, (1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1), 1),
        (2, (2, 2, 1), (0, 1, 0, 1, 0, 2), (1, 1, 1), 1),
        (1, (1, 1, 2), (2, 0, 1, 1, 1, 0), (2, 1, 2), 4),
    ],
)
def test_planes_of_a_volume_are_images(
    device: str,
    batch: int,
    strides: tuple[int, int, int],
    padding: tuple[int, ...],
    dilation: tuple[int, int, int],
    groups: int,
) -> None:
    image, weight = _data(batch, 8, 6, 7, 9), _data(20, 8 // groups, 3, 3, 2, seed=1)
    exact = _conv3d(image, weight, strides, padding, dilation, groups)

    def emit(bb: relax.BlockBuilder, given: Any) -> relax.Expr:
        call = R.nn.conv3d(
            given[0],
            relax.const(weight),
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        bias = relax.const(np.full((1, 20, 1, 1, 1), 0.5, "float32"))
        return R.nn.relu(bb.emit(R.add(bb.emit(call), bias)))

    made = _compile(device, image.shape, emit)
    np.testing.assert_allclose(made.run(image)[0], np.maximum(exact + 0.5, 0), **CLOSE)
    assert made.rules.count("conv2d-nchwc") == 1
    assert not made.fallbacks


def test_a_transposed_sequence_is_an_image_of_height_1(device: str) -> None:
    image, weight = _data(1, 20, 1, 15), _data(20, 12, 1, 4, seed=1)
    exact = conv2d_transposed(image, weight, (1, 2), (0, 1, 0, 1), (0, 1))

    def emit(bb: relax.BlockBuilder, given: Any) -> relax.Expr:
        call = R.nn.conv1d_transpose(
            given[0], relax.const(weight[:, :, 0]), strides=2, padding=1, output_padding=1
        )
        return bb.emit(call)

    made = _compile(device, (1, 20, 15), emit)
    np.testing.assert_allclose(made.run(image[:, :, 0])[0], exact[:, :, 0], **CLOSE)
    assert made.rules.count("conv2d-nchwc") == 1
