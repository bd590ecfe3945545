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
    """Measures each layer of PACKAGE: time, GFLOP/s, and percent of this core's measured peak."""
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
    numbers = ("ms", "%", "GFLOP/s", "% of peak", "GB/s")
    columns = ("layer", "op", *numbers, "schedule")
    title = f"layers, {counted(result.threads, 'thread')}"
    print_table(title, columns, [_row(row) for row in layers], numbers)
    print_fields(
        [
            ("layers", f"{result.layers_us / 1000:.3f} ms"),
            ("between", f"{result.overhead_us / 1000:.3f} ms"),
            ("whole model", f"{result.total_us / 1000:.3f} ms"),
            ("peak of a core", f"{result.peak.gflops:.0f} GFLOP/s float32"),
            ("copying, a core", f"{result.peak.gbytes_per_s:.1f} GB/s"),
        ]
    )


def _row(row: "LayerTime") -> tuple[str, ...]:
    layer = row.layer
    counts = layer.flops > 0
    return (
        ", ".join(layer.nodes) or layer.kernel,
        layer.op,
        f"{row.time_us / 1000:.3f}",
        f"{row.share:.1%}".rstrip("%"),
        f"{row.gflops:.1f}" if counts else "-",
        f"{row.peak_share:.0%}".rstrip("%") if counts else "-",
        f"{row.gbytes_per_s:.1f}",
        f"{layer.schedule} ({layer.fallback})" if layer.fallback else layer.schedule,
    )
