"""`tvmopt compare`: two programs of one model, and the first layer in which they depart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tvmopt.calibration import CalibrationSource
from tvmopt.cli.console import counted, note, print_fields, print_json, print_table
from tvmopt.cli.options import (
    inputs_options,
    json_option,
    parse_dims,
    parse_input_shapes,
    shape_options,
    verbose_option,
)
from tvmopt.cli.progress import Steps
from tvmopt.cli.quantization_table import decibels
from tvmopt.cli.session import Session
from tvmopt.errors import GateError, UsageError
from tvmopt.model import ModelSource

if TYPE_CHECKING:
    from tvmopt.compiler.comparison import Comparison, LayerDifference
    from tvmopt.compiler.executor import Array
    from tvmopt.compiler.programs import Program

_SAMPLES = 4
_DEPARTING = 16
"""Layers that are shown unless the user wants all."""


@click.command(short_help="Finds the first layer in which two models depart.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@inputs_options
@click.option(
    "--calibration",
    metavar="DATA",
    help="Run on samples instead: a .npz or .npy file, a folder of them, or the name of a data "
    "set.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=_SAMPLES,
    show_default=True,
    metavar="N",
    help="Batches of the calibration data to run on.",
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    metavar="R",
    help="Relative error from which a layer departs; exits with 3 if an output does.  "
    "[default: that of float32, 0.1 for fewer bits]",
)
@shape_options
@json_option
@verbose_option
@click.pass_obj
def compare(
    session: Session,
    file: Path,
    other: Path,
    *,
    inputs: tuple[str, ...],
    fill_mode: Literal["random", "ones", "zeros"],
    seed: int,
    calibration: str | None,
    samples: int,
    limit: float | None,
    input_shapes: tuple[str, ...],
    dims: tuple[str, ...],
    as_json: bool,
) -> None:
    """Runs FILE and OTHER on the same inputs and compares them layer by layer.

    Each is an ONNX model or a .tvmpkg package of it, quantized or not. OTHER is what FILE is held
    against. Layers belong together by the names of ONNX nodes.
    """
    if calibration is not None and inputs:
        raise UsageError("--calibration and --inputs exclude each other")
    from tvmopt.compiler.comparison import compare_programs

    shapes, sizes = parse_input_shapes(input_shapes), parse_dims(dims)
    with Steps(["open", "compare"], session.interrupt.check) as steps:

        def run(done: int, total: int) -> None:
            steps.detail(f"{done} of {total} layers")

        steps("open")
        programs = _open([file, other], shapes, sizes)
        batches = _batches(session, programs[0], inputs, fill_mode, seed, calibration, samples)
        steps("compare")
        result = compare_programs(programs[0], programs[1], batches, limit, run)
    session.interrupt.check()
    if as_json:
        print_json({"file": str(file), "other": str(other), **result.to_json()})
    else:
        _show(result, programs, verbose=session.verbose)
    if limit is not None and result.departs:
        raise _departure(result)


def _open(
    paths: Sequence[Path], shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]
) -> "tuple[Program, Program]":
    """Both programs; a package tells which shapes a model beside it has."""
    from tvmopt.compiler.programs import is_package, open_program

    found: dict[int, Program] = {}
    for index in sorted(range(2), key=lambda one: not is_package(paths[one])):
        if found and not shapes and not dims:
            (known,) = found.values()
            shapes = {spec.name: spec.shape for spec in known.inputs}
        found[index] = open_program(ModelSource(paths[index], shapes, dims))
    return found[0], found[1]


def _batches(
    session: Session,
    program: "Program",
    files: tuple[str, ...],
    fill: Literal["random", "ones", "zeros"],
    seed: int,
    calibration: str | None,
    samples: int,
) -> "Iterable[Mapping[str, Array]]":
    from tvmopt.cli.tensors import read_inputs
    from tvmopt.compiler.calibration_data import Batches
    from tvmopt.compiler.sample_inputs import sample_inputs

    if calibration is not None:
        data = Batches.open(CalibrationSource(calibration), session.plugins, program.inputs)
        return _First(data, samples)
    made = sample_inputs(program.inputs, program.ranges, seed, fill)
    return [{**made, **read_inputs(files, program.inputs)}]


class _First:
    """The first few of what can be iterated again and again."""

    def __init__(self, items: "Iterable[Mapping[str, Array]]", count: int) -> None:
        self._items = items
        self._count = count

    def __iter__(self) -> Any:
        return islice(self._items, self._count)


def _show(result: "Comparison", programs: "tuple[Program, Program]", *, verbose: bool) -> None:
    print_fields(
        [
            ("file", programs[0].title),
            ("other", programs[1].title),
            ("compared", _compared(result)),
            ("limit", f"{result.limit:g} of the largest magnitude"),
        ]
    )
    departing = [one for one in result.layers if one.max_rel > result.limit]
    shown = list(result.layers) if verbose else departing[:_DEPARTING]
    if shown:
        _print("layers" if verbose else "layers that depart", shown, result.limit)
        if len(shown) < len(departing):
            note(f"{len(departing) - len(shown)} more depart: -v shows all layers")
    _print("outputs", result.outputs, result.limit)
    click.echo(_conclusion(result))


def _compared(result: "Comparison") -> str:
    text = f"{counted(len(result.layers), 'layer')} on "
    text += f"{result.batches} batches" if result.batches != 1 else "1 batch"
    if result.left_out:
        text += f"; {result.left_out} of the first are not in both, or not alike"
    return text


def _conclusion(result: "Comparison") -> str:
    first = result.first_departure
    if first is None:
        return "No layer departs."
    place = result.layers.index(first)
    return (
        f"The first layer that departs is {first.node}: relative error {first.max_rel:.2g}, "
        f"SQNR {decibels(first.sqnr_db)} dB; {counted(place, 'layer')} before it agree."
    )


def _print(title: str, rows: "Sequence[LayerDifference]", limit: float) -> None:
    numbers = ("max error", "relative", "SQNR dB")
    cells = [
        (
            one.node,
            f"{one.max_abs:.2e}",
            f"{one.max_rel:.2e}",
            decibels(one.sqnr_db),
            "departs" if one.max_rel > limit else "",
        )
        for one in rows
    ]
    print_table(title, ("node", *numbers, ""), cells, numbers)


def _departure(result: "Comparison") -> GateError:
    worst = max(result.outputs, key=lambda one: one.max_rel)
    first = result.first_departure
    message = (
        f"output '{worst.node}' departs: relative error {worst.max_rel:.3g}, the limit is "
        f"{result.limit:g}"
    )
    hint = f"the first layer that departs is '{first.node}'" if first else None
    return GateError(message, hint, result.to_json())
