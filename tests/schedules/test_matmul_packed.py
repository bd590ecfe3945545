"""Matrix products with constant weights, with all that may follow them, against numpy."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.pack_matmul import PackMatmul
from tvmopt_schedules.cpu.compute.matmul import pack_weight
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import register_tile

R = relax.op
AVX512 = Machine(lanes=16, registers=32, cores=1, l1_bytes=48 << 10, l2_bytes=2 << 20)
AVX2 = Machine(lanes=8, registers=16, cores=1, l1_bytes=32 << 10, l2_bytes=1 << 20)
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 48, 64, 100, 127, 128, 197, 200]))

Epilogue = Callable[[relax.Expr], relax.Expr]


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(
    device: str, x: np.ndarray, w: np.ndarray, epilogue: Epilogue, cores: int | None = None
) -> Compiled:
    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(epilogue(bb.emit(R.matmul(inputs[0], relax.const(w)))))

    return compile_relax(device, [(x.shape, "float32")], emit, [PackMatmul()], cores)


def _check(
    device: str,
    x: np.ndarray,
    w: np.ndarray,
    epilogue: Epilogue = lambda y: y,
    reference: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    cores: int | None = None,
) -> Compiled:
    made = _compile(device, x, w, epilogue, cores)
    exact = reference(x.astype("float64") @ w.astype("float64"))
    # float32 sums of K products round to about K * 2^-24 of the sum of their magnitudes at worst.
    bound = x.shape[-1] * 2.0**-24 * (np.abs(x) @ np.abs(w)).max() + 1e-6
    np.testing.assert_allclose(made.run(x)[0], exact, rtol=1e-5, atol=bound)
    assert made.rules == ["matmul-packed"]
    return made


@settings(max_examples=12)
@given(rows=SIZES, columns=SIZES, depth=SIZES)
@example(rows=1, columns=1000, depth=64)
@example(rows=197, columns=10, depth=192)
@example(rows=1, columns=1, depth=1)
def test_any_shape(rows: int, columns: int, depth: int) -> None:
    _check("x86-avx2", _data(rows, depth), _data(depth, columns, seed=1))


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 49, 128, 197])
@pytest.mark.parametrize("columns", [3, 48, 130])
def test_row_and_column_tails(device: str, rows: int, columns: int) -> None:
    _check(device, _data(rows, 33), _data(33, columns, seed=1))


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1, 1), (2, 1, 3)])
def test_leading_axes_count_as_rows(device: str, lead: tuple[int, ...]) -> None:
    _check(device, _data(*lead, 11, 20), _data(20, 50, seed=1))


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_any_number_of_cores(device: str, cores: int) -> None:
    _check(device, _data(130, 64), _data(64, 200, seed=1), cores=cores)


def test_bias_residual_and_activation_share_the_kernel(device: str) -> None:
    bias, other = _data(100, seed=2), _data(1, 37, 100, seed=3)

    def epilogue(y: relax.Expr) -> relax.Expr:
        y = R.add(R.add(y, relax.const(bias)), relax.const(other))
        return R.nn.relu(y)

    _check(
        device,
        _data(1, 37, 24),
        _data(24, 100, seed=1),
        epilogue,
        lambda y: np.maximum(y + bias + other, 0),
    )


def test_gelu_shares_the_kernel(device: str) -> None:
    erf = np.vectorize(math.erf)
    made = _check(
        device,
        _data(1, 37, 24),
        _data(24, 100, seed=1),
        R.nn.gelu,
        lambda y: y * 0.5 * (1 + erf(y / np.sqrt(2))),
    )
    assert made.kernels == 1


@pytest.mark.parametrize(("heads", "width"), [(3, 64), (12, 64), (4, 10)])
def test_heads_are_moved_while_they_are_stored(device: str, heads: int, width: int) -> None:
    def epilogue(y: relax.Expr) -> relax.Expr:
        return R.permute_dims(R.reshape(y, (1, 37, heads, width)), (0, 2, 1, 3))

    _check(
        device,
        _data(1, 37, 24),
        _data(24, heads * width, seed=1),
        epilogue,
        lambda y: y.reshape(1, 37, heads, width).transpose(0, 2, 1, 3),
    )


def test_epilogue_that_cannot_join_still_gives_the_result(device: str) -> None:
    other = _data(5, 37, 40, seed=2)
    made = _compile(
        device, _data(1, 37, 24), _data(24, 40, seed=1), lambda y: R.add(y, relax.const(other))
    )
    exact = _data(1, 37, 24).astype("float64") @ _data(24, 40, seed=1) + other
    np.testing.assert_allclose(made.run(_data(1, 37, 24))[0], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("device", "machine", "register"),
    [("x86-avx512", AVX512, "zmm"), ("x86-avx2", AVX2, "ymm")],
)
@pytest.mark.parametrize("rows", [128, 197])
def test_accumulators_stay_in_registers(
    device: str, machine: Machine, register: str, rows: int
) -> None:
    made = _compile(device, _data(rows, 64), _data(64, 768, seed=1), lambda y: y)
    tile = register_tile(machine, rows, 768)
    # A vector loaded from the stack in the loop over k would be an accumulator that spilled.
    products = _loops_with_products(made.assembly)
    assert max(len(fmas) for fmas, _ in products) == tile.rows * tile.vectors
    for fmas, spills in products:
        assert all(register in fma for fma in fmas)
        assert not spills


def _loops_with_products(assembly: str) -> list[tuple[list[str], list[str]]]:
    """Products and stack accesses of each block that multiplies and jumps back to itself."""
    blocks = re.split(r"^(\.LBB\w+):", assembly, flags=re.MULTILINE)
    found: list[tuple[list[str], list[str]]] = []
    for label, text in zip(blocks[1::2], blocks[2::2], strict=True):
        body, jump, _ = text.partition(f"\t{label}\n")
        fmas = re.findall(r"^\s+vfmadd.*$", body, flags=re.MULTILINE)
        if jump and fmas:
            found.append((fmas, re.findall(r"^\s+v.*\(%rsp\).*$", body, flags=re.MULTILINE)))
    assert found, "no loop multiplies"
    return found


@given(rows=st.integers(1, 300), columns=st.integers(1, 1100))
@pytest.mark.parametrize("machine", [AVX512, AVX2])
def test_tiles_fit_the_registers(machine: Machine, rows: int, columns: int) -> None:
    tile = register_tile(machine, rows, columns)
    assert 1 <= tile.rows <= rows
    assert tile.rows * tile.vectors + 1 <= machine.registers


@pytest.mark.parametrize("machine", [AVX512, AVX2])
@pytest.mark.parametrize("rows", [49, 128, 196, 197])
def test_tiles_of_large_products_keep_the_fma_units_busy(machine: Machine, rows: int) -> None:
    tile = register_tile(machine, rows, 768)
    assert tile.rows * tile.vectors >= 10


def test_one_row_takes_wide_panels() -> None:
    assert register_tile(AVX512, 1, 4096).vectors == 8


def test_packed_weights_are_panels_filled_up_with_zeros() -> None:
    weight = np.arange(6, dtype="float32").reshape(2, 3)
    panels = pack_weight(weight, 2)
    np.testing.assert_array_equal(panels, [[[0, 1], [3, 4]], [[2, 0], [5, 0]]])
