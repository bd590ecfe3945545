"""The account of quantization as one HTML file: plots, tables and nothing to fetch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvmopt.cli import plots
from tvmopt.cli.console import size_text
from tvmopt.cli.quantization_table import (
    decibels,
    milliseconds,
    name_of,
    size,
    stays_float,
    summary,
    worst_first,
)
from tvmopt.cli.reporting import gate_text, speed_text, verification_text
from tvmopt.errors import UsageError

if TYPE_CHECKING:
    from tvmopt.report import QuantizedLayer, Report

_TEMPLATES = Path(__file__).parent / "templates"
_TEMPLATE = "quantization.html.j2"


def write_package_report(path: Path, package: Path) -> None:
    """Writes the report of a package; see `write_report`.

    Raises:
        UsageError: it was not quantized.
    """
    from tvmopt.compiler.archive import ArchiveReader
    from tvmopt.compiler.manifest import read_manifest

    with ArchiveReader(package) as archive:
        manifest = read_manifest(archive)
    report = manifest.report
    if not report.quantization:
        raise UsageError(f"'{package}' was not quantized: there is nothing to report")
    facts = [
        ("package", f"{package.name} ({size_text(package.stat().st_size)})"),
        ("target", manifest.target.name),
        ("made by", f"tvmopt {manifest.tvmopt_version}, TVM {manifest.tvm_version}"),
        ("verified", verification_text(manifest.verification)),
    ]
    if report.accuracy is not None:
        facts.append(("accuracy", gate_text(report.accuracy)))
    if report.speed is not None:
        facts.append(("speed", speed_text(report.speed)))
    write_report(path, manifest.model, facts, report)


def write_report(
    path: Path, title: str, facts: Iterable[tuple[str, str]], report: "Report"
) -> None:
    """Writes the report, complete or not at all.

    Args:
        path: the HTML file.
        title: the model's name.
        facts: names and values that stand at the top.
        report: of a model that was quantized.

    Raises:
        TvmoptError: the file cannot be written.
    """
    from tvmopt.compiler.output import write_text

    write_text(path, render(title, facts, report))


def render(title: str, facts: Iterable[tuple[str, str]], report: "Report") -> str:
    """The report as a page; names are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from tvmopt.compiler.rounding import POOR_SQNR_DB

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    layers = report.quantization
    integers = [one for one in layers if one.dtype == "int8"]
    return environment.get_template(_TEMPLATE).render(
        title=title,
        facts=[*facts, ("quantized", summary(layers))],
        rows=[_row(one, place) for place, one in _placed(layers)],
        floats=list(stays_float(layers).items()),
        noise=plots.noise_plot(integers, POOR_SQNR_DB),
        times=plots.time_plot(integers),
        sizes=plots.size_plot([one for one in integers if one.bytes_float is not None]),
        poor_db=POOR_SQNR_DB,
        width=plots.WIDTH,
        height=plots.HEIGHT,
        left=plots.LEFT,
        right=plots.WIDTH - plots.RIGHT,
        remarks=[
            (one.pass_name, one.op, one.message) for one in report.remarks if one.kind == "analysis"
        ],
    )


def _placed(layers: "Sequence[QuantizedLayer]") -> "list[tuple[int, QuantizedLayer]]":
    """The quantized layers, the worst first, with their places in the order of execution."""
    places = {id(layer): place for place, layer in enumerate(layers, start=1)}
    ordered = worst_first(one for one in layers if one.dtype == "int8")
    return [(places[id(layer)], layer) for layer in ordered]


def _row(layer: "QuantizedLayer", place: int) -> list[tuple[str, float | None]]:
    """Text and number to sort by of each cell."""
    figures = (layer.sqnr_db, layer.sensitivity, layer.us_float, layer.us_int8)
    figures += (layer.bytes_float, layer.bytes_int8)
    texts = (
        decibels(layer.sqnr_db),
        decibels(layer.sensitivity),
        milliseconds(layer.us_float),
        milliseconds(layer.us_int8),
        size(layer.bytes_float),
        size(layer.bytes_int8),
    )
    words = [(word, None) for word in (name_of(layer), layer.op, layer.dtype, layer.scheme)]
    return [(str(place), place), *words, *zip(texts, figures, strict=True)]
