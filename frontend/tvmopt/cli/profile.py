"""`tvmopt profile`: the time of each layer of a package."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tvmopt.cli.console import counted, print_fields, print_json, print_table
from tvmopt.cli.options import inputs_options, json_option, threads_option, verbose_option

if TYPE_CHECKING:
    from tvmopt.compiler.profile import LayerTime, Profile


@click.command(short_help="Shows where the time of a package goes.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Runs that each time is the median of.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Runs before them.",
)
@click.option(
    "--sort",
    type=click.Choice(["run", "time"]),
    default="run",
    show_default=True,
    help="In the order of execution, or the slowest first.",
)
@inputs_options
@threads_option
@json_option
@verbose_option
def profile(
    package: Path,
    *,
    repeat: int,
    warmup: int,
    sort: Literal["run", "time"],
    inputs: tuple[str, ...],
    fill_mode: Literal["random", "ones", "zeros"],
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measures each layer of PACKAGE, beside what its schedule predicts and its roofline.

    The roofline is the least time that this machine allows: its measured peak for the layer's
    operations, or its measured bandwidth for the layer's bytes, whichever takes longer.
    """
    from tvmopt import load
    from tvmopt.cli.tensors import complete_inputs

    loaded = load(package)
    given = complete_inputs(loaded, inputs, fill_mode, seed)
    result = loaded.profile(given, repeat=repeat, warmup=warmup, threads=threads)
    if as_json:
        print_json({"package": str(package), "target": loaded.target, **result.to_json()})
        return
    _show(result, slowest_first=sort == "time")


def _show(result: "Profile", *, slowest_first: bool) -> None:
    layers = list(result.layers)
    if slowest_first:
        layers.sort(key=lambda row: row.time_us, reverse=True)
    numbers = ("ms", "%", "predicted", "roofline", "% of it", "Gop/s", "% peak", "GB/s")
    columns = ("layer", "op", *numbers, "schedule")
    title = f"layers, {counted(result.threads, 'thread')}"
    print_table(title, columns, [_row(row) for row in layers], numbers)
    print_fields(
        [
            ("layers", f"{result.layers_us / 1000:.3f} ms"),
            ("between", f"{result.overhead_us / 1000:.3f} ms"),
            ("whole model", f"{result.total_us / 1000:.3f} ms"),
            ("roofline", f"{result.roofline_us / 1000:.3f} ms"),
            ("peak of a core", _peak(result)),
            ("copying, a core", f"{result.peak.gbytes_per_s:.1f} GB/s"),
        ]
    )
    click.echo(_worst(result))


def _peak(result: "Profile") -> str:
    peak = f"{result.peak.gflops:.0f} GFLOP/s float32"
    if result.peak.bfloat16_gflops:
        peak += f", {result.peak.bfloat16_gflops:.0f} bfloat16"
    if result.peak.int8_gops:
        peak += f", {result.peak.int8_gops:.0f} int8"
    return peak


def _row(row: "LayerTime") -> tuple[str, ...]:
    layer = row.layer
    predicted = row.predicted_us
    return (
        _name(row),
        layer.op,
        f"{row.time_us / 1000:.3f}",
        f"{row.share:.1%}".rstrip("%"),
        "-" if predicted is None else f"{predicted / 1000:.3f}",
        f"{row.roofline_us / 1000:.3f}",
        f"{row.roofline_share:.0%}".rstrip("%"),
        f"{row.gflops:.1f}" if layer.flops > 0 else "-",
        f"{row.peak_share:.0%}".rstrip("%") if layer.flops > 0 else "-",
        f"{row.gbytes_per_s:.1f}",
        f"{layer.schedule} ({layer.fallback})" if layer.fallback else layer.schedule,
    )


def _worst(result: "Profile") -> str:
    """The closing sentence: which layers to look at first."""
    rows = result.worst()
    if not rows:
        return "No layer is slower than its roofline."
    lost = sum(row.lost_us for row in result.layers)
    named = ", ".join(
        f"{_name(row)} ({row.lost_us / 1000:.3f} ms, {row.layer.schedule})" for row in rows
    )
    share = sum(row.lost_us for row in rows) / lost
    return (
        f"Farthest above their rooflines: {named}; they are {share:.0%} of the "
        f"{lost / 1000:.3f} ms that all layers lose."
    )


def _name(row: "LayerTime") -> str:
    return ", ".join(row.layer.nodes) or row.layer.kernel
