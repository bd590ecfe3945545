"""Fused attention of what `mixed-precision` rounds to bfloat16: numbers, and instructions."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt import Pass
from tvmopt_plugins.attention import FuseAttention
from tvmopt_plugins.mixed_precision import MixedPrecision
from tvmopt_plugins.pack_matmul import PackMatmul
from tvmopt_plugins.target_x86 import cpu_info
from tvmopt_schedules.cpu.code.pairs import bfloat16_of

R = relax.op
SCALE = np.float32(0.2)
LOWERED: Sequence[Pass] = (MixedPrecision(), FuseAttention(), PackMatmul())


@pytest.fixture(params=["x86-bf16", "x86-avx512", "x86-avx2", "pairs"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that this machine can run; `pairs` are products of pairs without the instruction."""
    wanted = {"x86-bf16": "avx512bf16", "x86-avx512": "avx512vl"}.get(request.param, "avx2")
    if wanted not in cpu_info.features():
        pytest.skip(f"this CPU has no {wanted}")
    if request.param != "pairs":
        return request.param
    monkeypatch.setattr(
        "tvmopt_schedules.cpu.compute.attention.multiplies_pairs", lambda _machine: True
    )
    return "x86-avx2"


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _compile(device: str, shapes: Sequence[Sequence[int]], mask: Any = None, **more: Any) -> Any:
    """Operands as projections leave them, `[B, T, H, D]`; so is the result."""

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        q, k, v = (R.permute_dims(one, (0, 2, 1, 3)) for one in inputs)
        scores = R.multiply(R.matmul(q, R.permute_dims(k, (0, 1, 3, 2))), relax.const(SCALE))
        if mask is not None:
            scores = R.add(scores, relax.const(mask))
        return bb.emit(R.permute_dims(R.matmul(R.nn.softmax(scores, -1), v), (0, 2, 1, 3)))

    return compile_relax(device, [(shape, "float32") for shape in shapes], emit, LOWERED, **more)


def _check(made: Compiled, arrays: Sequence[np.ndarray], mask: Any = 0) -> None:
    """Operands are rounded the same way on both sides, and weights nearly always.

    A weight is off by 4e-6 of it before it is rounded, so that one in about 2^-8 / 4e-6 = 1000
    becomes the other neighbour: the sum of all that differ is below 1 / 50, by 2^-8 of each.
    """
    q, k, v = (bfloat16_of(one).astype("float64").transpose(0, 2, 1, 3) for one in arrays)
    scores = float(SCALE) * q @ k.transpose(0, 1, 3, 2) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = bfloat16_of((weights / weights.sum(-1, keepdims=True)).astype("float32"))
    exact = (weights.astype("float64") @ v).transpose(0, 2, 1, 3)
    allowed = 2.0**-8 / 50 * np.abs(v).max()
    np.testing.assert_allclose(made.run(*arrays)[0], exact, rtol=0, atol=allowed)
    assert "attention" in made.rules
    assert not made.fallbacks


@pytest.mark.parametrize(("tokens", "depth"), [(197, 64), (37, 33), (1, 8)])
def test_weights_are_rounded_and_odd_numbers_of_products_filled_up(
    device: str, tokens: int, depth: int
) -> None:
    arrays = [_data(2, tokens, 2, depth, seed=seed) for seed in range(3)]
    made = _compile(device, [one.shape for one in arrays])
    _check(made, arrays)
    assert ("vdpbf16ps" in made.assembly) == (device == "x86-bf16")


def test_keys_that_a_mask_hides_are_jumped_over(device: str) -> None:
    mask = np.where(np.tri(128, dtype=bool), 0, -np.inf).astype("float32")
    arrays = [_data(1, 128, 2, 16, seed=seed) for seed in range(3)]
    made = _compile(device, [one.shape for one in arrays], mask)
    _check(made, arrays, mask)
    arrays[2][:, 64:] = np.nan  # 0 * NaN would be NaN
    assert np.isfinite(made.run(*arrays)[0][:, :32]).all()


def test_no_accumulator_leaves_the_registers() -> None:
    """Compiled, not run: any machine can."""
    made = _compile("x86-bf16", [(1, 128, 2, 64)] * 3, cores=1)
    (layer,) = (layer for layer in made.layers if layer.schedule == "attention")
    assert layer.products == "bfloat16"
    loops = re.findall(
        r"^(\.LBB\S+):\n((?:(?!\n\.LBB).)*?)\n\tjne\t\1$", made.assembly, re.M | re.S
    )
    products = [body for _, body in loops if "vdpbf16ps" in body]
    assert products
    for body in products:
        assert body.count("vdpbf16ps") >= 14  # one for each accumulator of the tile
        assert not re.search(r"vmovu?ap?s\S*\t%zmm\d+, \S*\(%rsp", body)
