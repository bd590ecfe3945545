"""Winograd's matrices, the straight code of the transforms, and the plans."""

from dataclasses import replace

import numpy as np
import pytest

from tvmopt_schedules.cpu.compute.winograd import AMPLIFICATION, pack_winograd, transforms
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.winograd.linear_code import program
from tvmopt_schedules.cpu.winograd.plan import WinogradShape, direct_cycles, plan

AVX512 = Machine(16, 32, 1, 48 << 10, 1 << 20, l3_bytes=32 << 20)
AVX2 = Machine(8, 16, 1, 32 << 10, 1 << 20, l3_bytes=16 << 20)

TILES = pytest.mark.parametrize("tile", [2, 4])


def _shape(tile: int, channels: int, side: int, outputs: int = 0, batch: int = 1) -> WinogradShape:
    outputs = outputs or channels
    return WinogradShape(tile, 3, batch, side, side, side, side, 1, 1, channels, outputs // 16, 16)


@TILES
def test_transforms_give_the_convolution(tile: int) -> None:
    matrices = transforms(tile)
    rng = np.random.default_rng(0)
    pixels, kernel = rng.standard_normal((tile + 2, tile + 2)), rng.standard_normal((3, 3))
    seen = matrices.image @ pixels @ matrices.image.T
    made = matrices.kernel @ kernel @ matrices.kernel.T
    result = matrices.result @ (seen * made) @ matrices.result.T
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3))
    np.testing.assert_allclose(result, np.einsum("yxij,ij->yx", windows, kernel), rtol=1e-12)


@TILES
def test_amplification_is_the_largest_of_all_kernels(tile: int) -> None:
    # The bound is convex in the weights: it is largest for a kernel with one weight.
    matrices = transforms(tile)
    seen = abs(matrices.image) @ np.ones((tile + 2, tile + 2)) @ abs(matrices.image).T
    found = []
    for i, j in np.ndindex(3, 3):
        made = np.outer(matrices.kernel[:, i], matrices.kernel[:, j])
        found.append((abs(matrices.result) @ (abs(made) * seen) @ abs(matrices.result).T).max())
    assert 0.99 * AMPLIFICATION[tile] < max(found) <= AMPLIFICATION[tile]


@TILES
def test_weights_are_transformed_and_filled_up(tile: int) -> None:
    weight = np.random.default_rng(0).standard_normal((20, 5, 3, 3)).astype("float32")
    packed = pack_winograd(weight, tile, 8, 2)
    places = (tile + 2) ** 2
    assert packed.shape == (2, places, 5, 16)
    matrix = transforms(tile).kernel
    exact = matrix @ weight[17, 3].astype("float64") @ matrix.T
    np.testing.assert_allclose(packed[1, :, 3, 1].reshape(tile + 2, -1), exact, rtol=1e-6)
    assert not packed[1, :, :, 4:].any()


@TILES
def test_straight_code_is_the_product_with_the_matrix(tile: int) -> None:
    for matrix in (transforms(tile).image, transforms(tile).result):
        code = program(matrix)
        x = np.random.default_rng(0).standard_normal(code.inputs)
        values = list(x)
        for terms in code.steps:
            values.append(sum(values[at] * factor for at, factor in terms))
        result = [sum(values[at] * factor for at, factor in terms) for terms in code.outputs]
        np.testing.assert_allclose(result, matrix @ x, rtol=1e-12)


def test_straight_code_takes_few_operations() -> None:
    # Lavin and Gray count 12 for a pass of F(4, 3) with points that need no more.
    assert program(transforms(4).image).operations == 12
    assert program(transforms(4).result).operations == 12
    assert program(transforms(2).image).operations == 4
    assert program(transforms(2).result).operations == 4


@pytest.mark.parametrize("machine", [AVX512, AVX2])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (128, 28), (256, 14), (512, 7), (48, 5)])
def test_register_tiles_fit_the_registers(machine: Machine, channels: int, side: int) -> None:
    shape = replace(_shape(4, channels, side), lanes=machine.lanes)
    made = plan(machine, shape)
    assert made.group * made.vectors + made.vectors + 1 <= machine.registers
    assert plan(machine, shape, made.vectors) == made  # what the weights were packed for


def test_large_images_gain_by_large_squares() -> None:
    costs = {tile: plan(AVX512, _shape(tile, 64, 56)).cycles for tile in (2, 4)}
    assert costs[4] < costs[2] < direct_cycles(AVX512, _shape(4, 64, 56))


def test_small_images_with_many_weights_from_memory_gain_nothing() -> None:
    shape = _shape(4, 512, 7)
    assert plan(AVX512, shape).cycles > direct_cycles(AVX512, shape)


def test_two_cores_share_what_one_would_do_alone() -> None:
    machine = replace(AVX512, cores=2)
    many = plan(machine, _shape(4, 64, 112))
    assert many.pieces % 2 == 0
    assert many.busiest < 0.6 * many.cycles
    few = plan(machine, _shape(4, 512, 14))
    assert few.pieces > 1
    assert few.busiest < 0.7 * few.cycles


def test_weights_from_memory_speak_for_the_smaller_squares() -> None:
    costs = {tile: plan(AVX512, _shape(tile, 512, 14)).cycles for tile in (2, 4)}
    assert costs[2] < costs[4]
    assert costs[2] < direct_cycles(AVX512, _shape(2, 512, 14))
