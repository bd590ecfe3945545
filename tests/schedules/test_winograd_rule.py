"""Winograd convolutions on blocked channels, through the layout pass, against NumPy."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from images import conv2d
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.fuse import Fuse
from tvmopt_plugins.layout import Layout
from tvmopt_plugins.lower import Legalize
from tvmopt_plugins.mixed_precision import NarrowStorage
from tvmopt_schedules.cpu.code.pairs import bfloat16_of
from tvmopt_schedules.cpu.compute.winograd import ROUNDINGS, transforms
from tvmopt_schedules.cpu.winograd.plan import WinogradShape, transform_flops
from tvmopt_schedules.cpu.winograd.rule import WinogradNchwc

R = relax.op

Epilogue = Callable[[relax.Expr], relax.Expr]
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One convolution."""

    channels: int
    outputs: int
    height: int
    width: int
    padding: Padding = (1, 1, 1, 1)
    batch: int = 1

    def fits(self) -> bool:
        """Whether the window fits the padded image."""
        top, left, bottom, right = self.padding
        return self.height + top + bottom >= 3 and self.width + left + right >= 3


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(
    device: str,
    case: Case,
    tile: int,
    epilogue: Epilogue = lambda y: y,
    cores: int | None = 1,
) -> tuple[Compiled, np.ndarray, np.ndarray]:
    weight = _data(case.outputs, case.channels, 3, 3, seed=1)
    image = _data(case.batch, case.channels, case.height, case.width)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = R.nn.conv2d(inputs[0], relax.const(weight), padding=case.padding)
        return bb.emit(epilogue(bb.emit(conv)))

    passes = [Layout(winograd=str(tile))]
    made = compile_relax(device, [(image.shape, "float32")], emit, passes, cores)
    return made, image, weight


def _bound(image: np.ndarray, weight: np.ndarray, padding: Padding, tile: int) -> np.ndarray:
    """What rounding may add to each result: the formula of `compute/winograd.py`."""
    matrices = transforms(tile)
    top, left, bottom, right = padding
    height = image.shape[2] + top + bottom - 2
    width = image.shape[3] + left + right - 2
    rest = [-height % tile, -width % tile]
    sides = ((0, 0), (0, 0), (top, bottom + rest[0]), (left, right + rest[1]))
    padded = np.pad(abs(image).astype("float64"), sides)
    side = matrices.side
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    squares = views[:, :, ::tile, ::tile]
    seen = abs(matrices.image) @ squares @ abs(matrices.image).T
    made = abs(matrices.kernel @ weight.astype("float64") @ matrices.kernel.T)
    products = np.einsum("ncyxij,ocij->noyxij", seen, made, optimize=True)
    results = abs(matrices.result) @ products @ abs(matrices.result).T
    whole = results.transpose(0, 1, 2, 4, 3, 5).reshape(*results.shape[:2], height + rest[0], -1)
    down, across = ROUNDINGS[tile]
    terms = image.shape[1] + 2 * (down + across) + 2
    return (1 + 1e-6) * terms * 2.0**-24 * whole[:, :, :height, :width] + 1e-37


def _check(device: str, case: Case, tile: int, cores: int | None = 1) -> Compiled:
    made, image, weight = _compile(device, case, tile, cores=cores)
    assert "winograd-nchwc" in made.rules
    exact = conv2d(image, weight, padding=case.padding)
    result = made.run(image)[0]
    assert result.shape == exact.shape
    error = abs(result - exact)
    # One more rounding where the exact result is rounded to float32.
    bound = _bound(image, weight, case.padding, tile) + abs(exact) * 2.0**-24
    assert (error <= bound).all(), f"{(error / bound).max():.2f} of the bound"
    return made


TILES = pytest.mark.parametrize("tile", [2, 4])
SIDES = st.integers(1, 19)
PADDINGS = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.builds(Case, st.integers(16, 50), st.integers(1, 70), SIDES, SIDES, PADDINGS).filter(
        Case.fits
    ),
    tile=st.sampled_from([2, 4]),
)
@example(case=Case(40, 37, 13, 18, (0, 2, 1, 0)), tile=4)
def test_any_shape_stays_within_the_bound(device: str, case: Case, tile: int) -> None:
    _check(device, case, tile)


@pytest.mark.parametrize("cores", [2, 3])
@pytest.mark.parametrize(
    ("case", "tile"),
    [
        (Case(32, 48, 24, 20, batch=2), 4),
        (Case(64, 96, 7, 7), 2),
        (Case(48, 80, 9, 9, batch=3), 4),
    ],
)
def test_work_is_spread_over_cores(device: str, case: Case, tile: int, cores: int) -> None:
    _check(device, case, tile, cores)


def test_few_squares_share_the_channels_among_cores(device: str) -> None:
    made = _check(device, Case(128, 256, 8, 8), 4, cores=2)
    assert made.assembly.count("TVMBackendParallelLaunch") >= 2


@TILES
def test_bias_residual_and_activation_join_the_kernel(device: str, tile: int) -> None:
    case = Case(32, 40, 10, 11)
    bias, other = _data(1, 40, 1, 1, seed=2), _data(1, 40, 10, 11, seed=3)
    made, image, weight = _compile(
        device,
        case,
        tile,
        lambda y: R.nn.relu(R.add(R.add(y, relax.const(bias)), relax.const(other))),
    )
    exact = np.maximum(conv2d(image, weight, padding=case.padding) + bias + other, 0)
    slack = 2.0**-22 * (abs(exact) + abs(bias) + abs(other))
    bound = _bound(image, weight, case.padding, tile) + slack
    assert (abs(made.run(image)[0] - exact) <= bound).all()
    assert made.kernels == 2  # the way into the blocked layout, and all the rest


def test_transcendental_activations_join_the_kernel(device: str) -> None:
    case = Case(32, 16, 9, 9)
    # Mish nests three of them.
    made, image, weight = _compile(
        device,
        case,
        4,
        lambda y: R.multiply(y, R.tanh(R.log(R.add(R.exp(y), relax.const(1.0, "float32"))))),
    )
    y = conv2d(image / 8, weight, padding=case.padding)
    exact = y * np.tanh(np.log1p(np.exp(y)))
    # The slope of Mish is at most 1.09; its polynomials are good to some units in the last place.
    bound = 1.1 * _bound(image / 8, weight, case.padding, 4) + 2e-6 * (1 + abs(exact))
    assert (abs(made.run(image / 8)[0] - exact) <= bound).all()
    assert made.kernels == 2


def test_products_stay_in_registers(device: str) -> None:
    made, _, _ = _compile(device, Case(64, 64, 28, 28), 4)
    loops = re.split(r"\n\.LBB\w+:", made.assembly)
    inner = max(loops, key=lambda part: part.count("vfmadd231ps"))
    # As many independent sums as keep two units of four cycles' latency busy.
    assert inner.count("vfmadd231ps") >= 8
    # Each step loads weights and pixels and keeps the sums in registers.
    assert not re.search(r"vmov\w+\s.*\(%rsp\)", inner)


def test_where_the_rule_steps_aside_the_result_is_the_same(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WinogradNchwc, "schedule", lambda _self, _func: None)
    case = Case(17, 48, 8, 12)
    made, image, weight = _compile(device, case, 4)
    assert "winograd-nchwc" not in made.rules
    exact = conv2d(image, weight, padding=case.padding)
    # The sums that share no steps round more often: 6 terms a pass instead of 4 or 5.
    bound = 1.2 * _bound(image, weight, case.padding, 4) + abs(exact) * 2.0**-24
    assert (abs(made.run(image)[0] - exact) <= bound).all()


def test_transforms_are_a_small_part_of_the_operations(device: str) -> None:
    lanes = 16 if "512" in device else 8
    shape = WinogradShape(4, 3, 1, 56, 56, 56, 56, 1, 1, 64, 64 // lanes, lanes)
    direct = 2 * 56 * 56 * 64 * 64 * 9
    products = direct // 4
    assert products < products + transform_flops(shape) < 1.3 * products


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_image_that_is_stored_narrow_is_widened(device: str, dtype: str) -> None:
    weight, image = _data(32, 32, 3, 3, seed=1) / 16, _data(1, 32, 12, 12)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        first = bb.emit(R.nn.conv2d(inputs[0], relax.const(weight), padding=1))
        return bb.emit(R.nn.conv2d(first, relax.const(weight), padding=1))

    passes = [Layout(winograd="4"), Legalize(), Fuse(), NarrowStorage(dtype)]
    made = compile_relax(device, [(image.shape, "float32")], emit, passes, 1)
    assert made.rules.count("winograd-nchwc") == 2
    between = conv2d(image, weight, padding=(1, 1, 1, 1))
    narrow = between.astype("float16") if dtype == "float16" else bfloat16_of(between)
    exact = conv2d(narrow.astype("float32"), weight, padding=(1, 1, 1, 1))
    # Float32's rounding may bring an element to the other side of a tie: one step of a few.
    step = abs(between).max() * (2.0**-10 if dtype == "float16" else 2.0**-7)
    np.testing.assert_allclose(made.run(image)[0], exact, atol=2 * step * abs(weight).max())
