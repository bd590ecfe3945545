"""`tvmopt quantize`: a float model and data in, its encodings or a QDQ ONNX file out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmopt.cli.compile import DEFAULT_TARGET
from tvmopt.cli.console import note, print_fields, print_json, print_table, size_text
from tvmopt.cli.options import (
    json_option,
    parse_dims,
    parse_input_shapes,
    parse_passes,
    shape_options,
    verbose_option,
)
from tvmopt.cli.quantization import calibration_options, parse_quantization
from tvmopt.cli.session import Session
from tvmopt.errors import UsageError
from tvmopt.model import CompileRequest, ModelSource

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
    from tvmopt.compiler.output import check_output
    from tvmopt.compiler.quantize import quantize_model

    check_output(where)
    made = quantize_model(request, session.plugins)
    session.interrupt.check()
    _write(made, where)
    if as_json:
        print_json({"output": str(where), "report": made.report.to_json()})
        return
    _show(made, where)


def _write(made: "QuantizedModel", where: Path) -> None:
    from tvmopt.compiler.exporter import save_model
    from tvmopt.compiler.output import write_errors

    if where.suffix == ".onnx":
        save_model(made.onnx(), where)
        return
    partial = where.with_name(f".{where.name}.part")
    with write_errors(where):
        partial.write_text(json.dumps(made.encodings(), indent=1) + "\n", encoding="utf-8")
        partial.replace(where)


def _show(made: "QuantizedModel", where: Path) -> None:
    encodings = made.encodings()
    counts: list[tuple[str, Any]] = [
        ("written", f"{where} ({size_text(where.stat().st_size)})"),
        ("weights", len(encodings["weights"])),
        ("activations", len(encodings["activations"])),
    ]
    print_fields([(name, str(value)) for name, value in counts])
    floats = [r for r in made.report.remarks if r.message.startswith("stays float32")]
    if floats:
        rows = [(r.op, r.message.removeprefix("stays float32: ")) for r in floats]
        print_table("what stays float32", ("node", "why"), rows)
    for remark in made.report.remarks:
        if remark.pass_name in ("calibrate", "annotate-quantization") and remark.kind == "analysis":
            note(remark.message)
