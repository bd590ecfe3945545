"""`tvmopt quantize`: a float model and data in, its encodings or a QDQ ONNX file out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmopt.cli.compile import DEFAULT_TARGET, pass_names
from tvmopt.cli.console import note, print_fields, print_json, size_text
from tvmopt.cli.options import (
    json_option,
    parse_dims,
    parse_input_shapes,
    parse_passes,
    shape_options,
    verbose_option,
)
from tvmopt.cli.progress import Steps
from tvmopt.cli.quantization import (
    calibration_options,
    check_report,
    parse_quantization,
    report_option,
)
from tvmopt.cli.quantization_table import print_quantization, summary
from tvmopt.cli.session import Session
from tvmopt.errors import UsageError
from tvmopt.model import CompileRequest, ModelSource
from tvmopt.passes import Stage

if TYPE_CHECKING:
    from tvmopt.compiler.quantize import QuantizedModel

_KINDS = (".json", ".onnx")


@click.command("quantize", short_help="Quantizes an ONNX model to 8 bits.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write: .json for encodings by the names of the ONNX file, .onnx for a "
    "quantized model (QDQ).  [default: the model's name with .qdq.onnx, in this directory]",
)
@click.option(
    "--target", default=DEFAULT_TARGET, show_default=True, help="Whose integers it is for."
)
@calibration_options
@shape_options
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Sets options of a pass; also adds a pass that does not run by default.",
)
@report_option
@json_option
@verbose_option
@click.pass_obj
def quantize(
    session: Session,
    model: Path,
    *,
    output: Path | None,
    target: str,
    input_shapes: tuple[str, ...],
    dims: tuple[str, ...],
    passes: tuple[str, ...],
    calibration: str | None,
    calibrator: str | None,
    calibration_samples: int | None,
    exclude: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Quantizes MODEL, an ONNX file of floats, with ranges from calibration data.

    The .onnx file computes what `tvmopt compile --quantize int8` compiles, and other runtimes run
    it, too.
    """
    where = output or Path(f"{model.stem}.qdq.onnx")
    if where.suffix not in _KINDS:
        message = f"the output '{where}' is neither .json (encodings) nor .onnx (a QDQ model)"
        raise UsageError(message)
    if where.exists() and model.exists() and where.samefile(model):
        raise UsageError(f"the output '{where}' is the model itself", "name another file with -o")
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
    from tvmopt.cli.html_report import write_report
    from tvmopt.compiler.output import check_output
    from tvmopt.compiler.quantize import quantize_model
    from tvmopt.compiler.sensitivity import analyze_sensitivity

    check_output(where)
    check_report(html)
    plugins = session.plugins
    names = ["import", *pass_names(plugins, request, Stage.QUANTIZE), "sensitivity"]
    with Steps(names, session.interrupt.check) as steps:

        def run(done: int, total: int) -> None:
            steps.detail(f"{done} of {total} runs")

        made = quantize_model(request, plugins, steps, steps.detail)
        steps("sensitivity")
        analyze_sensitivity(made.ctx, plugins, made.imported, made.batches, progress=run)
    session.interrupt.check()
    _write(made, where)
    if html is not None:
        write_report(html, model.name, [("target", target), ("written", str(where))], made.report)
    if as_json:
        print_json({"output": str(where), "report": made.report.to_json()})
        return
    _show(made, where, verbose=session.verbose)


def _write(made: "QuantizedModel", where: Path) -> None:
    from tvmopt.compiler.exporter import save_model
    from tvmopt.compiler.output import write_text

    if where.suffix == ".onnx":
        save_model(made.onnx(), where)
        return
    write_text(where, json.dumps(made.encodings(), indent=1) + "\n")


def _show(made: "QuantizedModel", where: Path, *, verbose: bool) -> None:
    encodings = made.encodings()
    counts: list[tuple[str, Any]] = [
        ("written", f"{where} ({size_text(where.stat().st_size)})"),
        ("weights", len(encodings["weights"])),
        ("activations", len(encodings["activations"])),
        ("quantized", summary(made.report.quantization)),
    ]
    print_fields([(name, str(value)) for name, value in counts])
    print_quantization(made.report.quantization, verbose=verbose)
    for remark in made.report.remarks:
        if remark.pass_name in ("calibrate", "annotate-quantization") and remark.kind == "analysis":
            note(remark.message)
