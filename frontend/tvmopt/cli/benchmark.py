"""`tvmopt benchmark`: how fast a package is, alone or against others in turns."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tvmopt.cli.console import counted, print_json, print_table
from tvmopt.cli.options import inputs_options, json_option, threads_option, verbose_option
from tvmopt.cli.progress import Rounds
from tvmopt.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tvmopt.compiler.benchmark import BenchmarkResult
    from tvmopt.compiler.package import Package


@click.command(short_help="Measures the latency of a package.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="Latencies to measure.",
)
@click.option(
    "--number",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs in a row that one latency is the mean of.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs before the first measurement.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="PEER[,PEER]",
    help="Also measure onnxruntime or openvino, in turns, on the original model.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="ONNX",
    help="The original for --against.  [default: the model's file, beside the package or here]",
)
@inputs_options
@threads_option
@json_option
@verbose_option
def benchmark(
    package: Path,
    *,
    repeat: int,
    number: int,
    warmup: int,
    against: tuple[str, ...],
    model: Path | None,
    inputs: tuple[str, ...],
    fill_mode: Literal["random", "ones", "zeros"],
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measures the latency of PACKAGE in milliseconds: P50, P90 and P99.

    With --against, all programs run on the same inputs with as many threads, taking turns.
    """
    from tvmopt import load
    from tvmopt.cli.tensors import complete_inputs
    from tvmopt.compiler.benchmark import benchmark_alternating, ratios
    from tvmopt.compiler.threads import check_threads

    peers = [name.strip() for text in against for name in text.split(",") if name.strip()]
    if model is not None and not peers:
        raise UsageError("--model is for --against, which is not given")
    loaded = load(package)
    count = check_threads(threads)
    given = complete_inputs(loaded, inputs, fill_mode, seed)
    runners = {"tvmopt": loaded.bind(given, count)}
    if peers:
        from tvmopt.peers import peer_runners

        runners |= peer_runners(
            peers,
            _original(loaded, package, model),
            given,
            count,
            loaded.manifest.report.precision,  # like with like
        )
    with Rounds(f"measuring {', '.join(runners)}", repeat) as progress:
        results = benchmark_alternating(
            runners, repeat=repeat, number=number, warmup=warmup, progress=progress
        )
    if as_json:
        print_json(
            {
                "package": str(package),
                "target": loaded.target,
                "threads": count,
                "results": [result.to_json() for result in results.values()],
                "ratios": ratios(results),
            }
        )
        return
    _show(results, ratios(results), f"{package}, {counted(count, 'thread')}, milliseconds")


def _original(loaded: "Package", package: Path, model: Path | None) -> Path:
    if model is not None:
        if not model.is_file():
            raise UsageError(f"there is no model '{model}'", "give the ONNX file with --model")
        loaded.manifest.check_model(model)
        return model
    name = loaded.manifest.model
    found = [folder / name for folder in (package.parent, Path()) if (folder / name).is_file()]
    for index, path in enumerate(found):
        try:
            loaded.manifest.check_model(path)
        except ModelError:  # of two files of this name, the second one may be it
            if index == len(found) - 1:
                raise
        else:
            return path
    message = f"the original model '{name}' is neither beside the package nor here"
    raise UsageError(message, "give it with --model")


def _show(results: "dict[str, BenchmarkResult]", ratio: dict[str, float], title: str) -> None:
    def row(result: "BenchmarkResult") -> tuple[Any, ...]:
        microseconds = (result.p50_us, result.p90_us, result.p99_us, result.mean_us, result.min_us)
        share = f"{ratio[result.name]:.2f}" if result.name in ratio else ""
        return result.name, *(f"{us / 1000:.3f}" for us in microseconds), share

    numbers = ("P50", "P90", "P99", "mean", "min", "tvmopt / it")
    shown = numbers if ratio else numbers[:-1]
    rows = [row(result)[: len(shown) + 1] for result in results.values()]
    print_table(title, ("program", *shown), rows, numbers)
