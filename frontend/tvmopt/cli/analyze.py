"""`tvmopt analyze`: what a model tells of itself when it is run on data."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvmopt.cli.compile import DEFAULT_TARGET, pass_names
from tvmopt.cli.console import print_fields, print_json, print_table
from tvmopt.cli.options import (
    json_option,
    parse_dims,
    parse_input_shapes,
    parse_passes,
    shape_options,
    verbose_option,
)
from tvmopt.cli.progress import Steps
from tvmopt.cli.quantization import calibration_options, parse_quantization
from tvmopt.cli.quantization_table import decibels
from tvmopt.cli.session import Session
from tvmopt.model import CompileRequest, ModelSource
from tvmopt.passes import Stage

if TYPE_CHECKING:
    from tvmopt.compiler.sensitivity import Sensitivity

_SAMPLES = 8


@click.group(short_help="Shows which layers lose most when a model is quantized.")
def analyze() -> None:
    """Analyses of a model that need data to run it on."""


@analyze.command(short_help="What quantizing each layer alone costs.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target", default=DEFAULT_TARGET, show_default=True, help="Whose integers it is for."
)
@calibration_options
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=_SAMPLES,
    show_default=True,
    metavar="N",
    help="Batches of the calibration data to measure on.",
)
@shape_options
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Sets options of a pass; also adds a pass that does not run by default.",
)
@json_option
@verbose_option
@click.pass_obj
def sensitivity(
    session: Session,
    model: Path,
    *,
    target: str,
    samples: int,
    input_shapes: tuple[str, ...],
    dims: tuple[str, ...],
    passes: tuple[str, ...],
    calibration: str | None,
    calibrator: str | None,
    calibration_samples: int | None,
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Quantizes MODEL, an ONNX file of floats, one layer at a time.

    SQNR is the signal to noise of the layer's own result, effect that of the model's outputs, with
    all other layers in floats: in decibels, the less the worse. The worst layer comes first; keep
    it in floats with --exclude.
    """
    options = {name: dict(given) for name, given in parse_passes(passes).items()}
    source = parse_quantization(
        options, "int8", calibration, calibrator, calibration_samples, exclude
    )
    request = CompileRequest(
        ModelSource(model, parse_input_shapes(input_shapes), parse_dims(dims)),
        session.plugins.backend(target),
        options,
        calibration=source,
    )
    from tvmopt.compiler.quantize import quantize_model
    from tvmopt.compiler.sensitivity import analyze_sensitivity

    plugins = session.plugins
    names = ["import", *pass_names(plugins, request, Stage.QUANTIZE), "measure"]
    with Steps(names, session.interrupt.check) as steps:

        def run(done: int, total: int) -> None:
            steps.detail(f"{done} of {total} runs")

        made = quantize_model(request, plugins, steps, steps.detail)
        steps("measure")
        result = analyze_sensitivity(made.ctx, plugins, made.imported, made.batches, samples, run)
    session.interrupt.check()
    if as_json:
        print_json({"model": str(model), "target": target, **result.to_json()})
        return
    _show(result)


def _show(result: "Sensitivity") -> None:
    rows = [
        (", ".join(one.nodes), one.op, decibels(one.sqnr_db), decibels(one.effect_db))
        for one in result.worst_first()
    ]
    numbers = ("SQNR dB", "effect dB")
    print_table("quantized alone, the worst first", ("layer", "op", *numbers), rows, numbers)
    together = ", ".join(f"{name} {decibels(db)} dB" for name, db in result.outputs_db.items())
    print_fields([("all quantized", together), ("batches", result.batches)])
