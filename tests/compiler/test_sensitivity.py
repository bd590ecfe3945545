"""What each layer loses when it is quantized, against models where really only it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tvmopt import CalibrationSource, CompileContext, CompileRequest, ModelSource, Stage
from tvmopt.compiler.sensitivity import Noise, SwitchedModel, measure
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.stages import import_source, line_up, run_passes
from tvmopt.plugins import Plugins

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
MODEL = DIGITS / "digits.onnx"
SAMPLES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    with np.load(DIGITS / "digits_test.npz") as given:
        np.savez(path, image=given["image"][:SAMPLES])
    return path


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.load()


def quantized(data: Path, plugins: Plugins, exclude: str = "") -> tuple[Any, Any]:
    options = {"annotate-quantization": {"exclude": exclude}}
    backend = plugins.backend("x86-avx2")
    source = CalibrationSource(data, "minmax")
    request = CompileRequest(ModelSource(MODEL), backend, options, calibration=source)
    ctx = CompileContext(request, backend.target())
    passes = [one for one in line_up(request, plugins, ctx) if one.stage <= Stage.QUANTIZE]
    imported = import_source(ctx, plugins, lambda _step: None)
    run_passes(passes, imported.module, ctx, plugins, lambda _step: None)
    return ctx, imported


@pytest.fixture(scope="module")
def network(data: Path, plugins: Plugins) -> Any:
    ctx, imported = quantized(data, plugins)
    return ctx, imported, SwitchedModel.of(ctx, plugins, imported)


def runs(ctx: Any, imported: Any, plugins: Plugins) -> list[Any]:
    """The outputs of the simulation for all samples."""
    executor = simulation(ctx.simulated, ctx.request, plugins, imported.inputs, imported.outputs)
    return [executor.run(batch, 1)["logits"] for batch in ctx.calibration.batches]


def test_without_a_switch_it_is_the_original_and_with_all_the_simulation(
    network: Any, plugins: Plugins
):
    ctx, imported, model = network
    session = onnxruntime.InferenceSession(MODEL)
    everything = set(range(len(model.switches)))
    for batch, wanted in zip(ctx.calibration.batches, runs(ctx, imported, plugins), strict=True):
        exact = session.run(["logits"], batch)[0]
        np.testing.assert_allclose(model.run(batch, ())[0][0], exact, rtol=1e-4, atol=1e-4)
        ours = np.array(model.run(batch, everything)[0][0])
        # Single roundings may fall the other way: steps of the last layers, 1 % of the largest.
        np.testing.assert_allclose(ours, wanted, atol=0.01 * np.abs(wanted).max())
        assert np.abs(ours - exact).max() > 1e-2


def test_the_effect_of_a_layer_is_that_of_a_model_where_only_it_is_quantized(
    network: Any, data: Path, plugins: Plugins
):
    ctx, imported, model = network
    result = measure(model, ctx.calibration.batches, SAMPLES)
    assert result.batches == SAMPLES
    found = {one.nodes[0]: one for one in result.layers}
    alone, _ = quantized(data, plugins, "re:^(?!stem[.][01]$)")
    (kept,) = [one.nodes[0] for one in alone.report.quantization if one.dtype == "int8"]
    assert kept == "stem.0"
    session, noise = onnxruntime.InferenceSession(MODEL), Noise()
    for batch, ours in zip(ctx.calibration.batches, runs(alone, imported, plugins), strict=True):
        noise.add(ours, session.run(["logits"], batch)[0])
    assert found[kept].effect_db == pytest.approx(noise.ratio_db, abs=0.1)
    # Of its own result: weights of +-64 steps leave 35 dB and more.
    assert all(35 < one.sqnr_db < 80 for one in found.values())


def test_what_lies_between_products_has_a_switch_and_what_hands_values_on_has_none(network: Any):
    ops = [one.op for one in network[2].switches]
    assert ops.count("conv2d") == 7
    assert ops.count("add") == 2
    assert "reshape" not in ops


def test_the_account_of_quantization_takes_the_figures_in(network: Any):
    ctx, _, model = network
    layers = measure(model, ctx.calibration.batches, 1).fill(ctx.report.quantization)
    assert [one.op for one in layers] == [one.op for one in model.switches]
    for layer, before in zip(layers, ctx.report.quantization, strict=True):
        assert layer.sqnr_db is not None
        assert layer.sensitivity is not None
        assert replace(layer, sqnr_db=None, sensitivity=None) == before


def test_progress_counts_runs(network: Any):
    ctx, _, model = network
    seen: list[tuple[int, int]] = []
    measure(model, ctx.calibration.batches, 2, lambda *state: seen.append(state))
    total = 2 * len(model.switches)
    assert seen == [(run, total) for run in range(1, total + 1)]


def test_noise_is_a_ratio_of_sums_over_samples():
    noise = Noise()
    noise.add(np.float32([1.1, np.nan]), np.float32([1.0, np.nan]))
    noise.add(np.float32([3.0]), np.float32([3.0]))
    assert noise.ratio_db == pytest.approx(10 * np.log10(10 / 0.1**2), abs=1e-4)
    assert Noise().ratio_db == float("inf")
