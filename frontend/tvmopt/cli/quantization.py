"""The options that quantize: what they are, and what a compilation is asked for by them."""

from pathlib import Path
from typing import Any

import click

from tvmopt.calibration import CalibrationSource
from tvmopt.cli.options import F
from tvmopt.errors import UsageError
from tvmopt.metrics import AccuracyGate
from tvmopt.modes import CALIBRATED, MODES, add_mode


def quantize_options(function: F) -> F:
    """`--quantize` and what belongs to it, for `parse_quantization`."""
    function = calibration_options(gate_options(speed_options(function)))
    return click.option(
        "--quantize",
        type=click.Choice(list(MODES)),
        help="int8 computes products in 8-bit integers, with ranges learned from --calibration; "
        "int8-dynamic takes the range of each row of a matrix product while the model runs; "
        "int8-weights stores weights and tables in 8 bits, and multiplies float32.",
    )(function)


def gate_options(function: F) -> F:
    """`--max-drop`, `--metric` and `--dataset`."""
    options: tuple[Any, ...] = (
        click.option(
            "--dataset",
            metavar="DATA",
            help="What the metric is measured on: as for --calibration, with an array of labels.",
        ),
        click.option(
            "--metric",
            metavar="NAME[:KEY=VALUE,...]",
            help="How good outputs are: top1, perplexity, ...; see `tvmopt plugins`.",
        ),
        click.option(
            "--max-drop",
            metavar="DROP",
            help="The most that the int8 model may be worse than the float one: 1% of its metric, "
            "or 0.3 points. What int8 hurts most stays float until that holds; else exit code 3.",
        ),
    )
    for option in options:
        function = option(function)
    return function


def report_option(function: F) -> F:
    """`--report`."""
    return click.option(
        "--report",
        "html",
        type=click.Path(path_type=Path),
        metavar="FILE.html",
        help="Write what quantization costs and brings each layer as a page with plots.",
    )(function)


def check_report(path: Path | None) -> None:
    """Checks, before anything is compiled, that a report can be written to `path`.

    Raises:
        UsageError: it is named as something else.
        TvmoptError: it cannot be written there.
    """
    from tvmopt.compiler.output import check_output

    if path is None:
        return
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"the report '{path}' is no .html file", "name it FILE.html")
    check_output(path)


def speed_options(function: F) -> F:
    """`--measure` and `--if-slower`."""
    options: tuple[Any, ...] = (
        click.option(
            "--if-slower",
            type=click.Choice(["keep", "float"]),
            help="What to write where the whole int8 model is slower: it nevertheless, as it is "
            "smaller, or the float one.  [default: keep]",
        ),
        click.option(
            "--measure/--no-measure",
            default=None,
            help="Measure the int8 model against float, and keep layers float that int8 slows "
            "down.  [default: measure]",
        ),
    )
    for option in options:
        function = option(function)
    return function


def check_search(
    quantize: str | None,
    gate: AccuracyGate | None,
    if_slower: str | None,
    *,
    measure: bool | None,
) -> None:
    """Checks that what decides on layers fits together.

    Raises:
        UsageError: an option without the one that it belongs to.
    """
    given = {"--max-drop": gate, "--if-slower": if_slower, "--measure": measure or None}
    for name, value in given.items():
        if quantize is None and value is not None:
            raise UsageError(f"{name} is for --quantize", "add --quantize int8")
    if if_slower == "float" and measure is False:
        message = "--if-slower float needs the measurement"
        raise UsageError(message, "compile without --no-measure")


def calibration_options(function: F) -> F:
    """`--calibration`, `--calibrator`, `--calibration-samples` and `--exclude`."""
    options: tuple[Any, ...] = (
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Nodes that stay float32: a name or pattern, op:NAME, or re:REGEX; repeatable.",
        ),
        click.option(
            "--calibration-samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Use at most so many samples.  [default: all]",
        ),
        click.option(
            "--calibrator",
            metavar="NAME[:KEY=VALUE,...]",
            help="How ranges follow from data: a name of `tvmopt plugins`.  [default: mse]",
        ),
        click.option(
            "--calibration",
            metavar="DATA",
            help="Samples to learn ranges from: a .npz or .npy file by the inputs' names, the "
            "first axis counting samples; a folder of such files; or the name of a data set.",
        ),
    )
    for option in options:
        function = option(function)
    return function


def parse_quantization(
    passes: dict[str, dict[str, str]],
    quantize: str | None,
    calibration: str | None,
    calibrator: str | None,
    samples: int | None,
    exclude: tuple[str, ...],
) -> CalibrationSource | None:
    """Where to calibrate from; adds the passes that quantize to `passes`.

    Raises:
        UsageError: an option without the one that it belongs to.
    """
    if quantize is None:
        given = {"--calibrator": calibrator, "--calibration-samples": samples, "--exclude": exclude}
        for name, value in given.items():
            if value:
                raise UsageError(f"{name} is for --quantize", "add --quantize int8")
    elif calibration is None and (quantize in CALIBRATED or calibrator or samples):
        message = f"--quantize {quantize} learns ranges of activations from data"
        if quantize not in CALIBRATED:
            message = "--calibrator and --calibration-samples are for --calibration"
        raise UsageError(message, "add --calibration data.npz, with samples by the inputs' names")
    else:
        add_mode(quantize, passes, exclude)
    if calibration is None:
        return None
    return CalibrationSource(calibration, calibrator or "", samples or 0)
