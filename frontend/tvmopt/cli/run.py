"""`tvmopt run`: a package, some inputs, and what comes out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tvmopt.cli.console import note, print_json, print_table, shape_text
from tvmopt.cli.options import inputs_options, json_option, threads_option, verbose_option
from tvmopt.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_SHOWN = 8
"""Elements of an output that the table shows."""


@click.command(short_help="Runs a package and shows its outputs.")
@click.argument("package", type=click.Path(path_type=Path))
@inputs_options
@click.option(
    "--print-top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show the N largest values of the last axis of each output, with their indices.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Write all outputs there.",
)
@threads_option
@json_option
@verbose_option
def run(
    package: Path,
    *,
    inputs: tuple[str, ...],
    fill_mode: Literal["random", "ones", "zeros"],
    seed: int,
    print_top: int | None,
    output: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Runs PACKAGE once on the given inputs.

    Inputs come from .npz, .npy or ONNX .pb files (NAME=FILE where the file does not tell the name)
    or a folder like test_data_set_0; those that are not given are filled.
    """
    from tvmopt import load
    from tvmopt.cli.tensors import complete_inputs, write_outputs

    if output is not None and output.suffix != ".npz":
        raise UsageError(f"the output '{output}' is no .npz file", "name it FILE.npz")
    loaded = load(package)
    given = complete_inputs(loaded, inputs, fill_mode, seed)
    outputs = loaded.run(given, threads)
    if output is not None:
        write_outputs(output, outputs)
        note(f"wrote {output}")
    if as_json:
        print_json({"outputs": [_as_json(n, array, print_top) for n, array in outputs.items()]})
    elif print_top is not None:
        for name, array in outputs.items():
            _show_top(name, array, print_top)
    else:
        rows = [_summary(name, array) for name, array in outputs.items()]
        columns = ("output", "type", "min", "max", "mean", "first values")
        print_table("outputs", columns, rows, ("min", "max", "mean"))


def _summary(name: str, array: "Array") -> tuple[str, ...]:
    kind = shape_text(array.dtype.name, array.shape)
    first = ", ".join(f"{value:.6g}" for value in array.reshape(-1)[:_SHOWN].tolist())
    if array.size == 0:
        return name, kind, "-", "-", "-", ""
    more = ", ..." if array.size > _SHOWN else ""
    numbers = (array.min(), array.max(), array.mean())
    return name, kind, *(f"{float(value):.6g}" for value in numbers), first + more


def top_values(array: "Array", count: int) -> "tuple[Array, Array]":
    """Indices and values of the `count` largest entries along the last axis, largest first."""
    import numpy as np

    rows = np.atleast_1d(array)
    # Sorted backwards, so that of equal values the one with the lower index comes first.
    backwards = np.argsort(np.flip(rows, -1), axis=-1, kind="stable")
    order = (rows.shape[-1] - 1 - np.flip(backwards, -1))[..., :count]
    return order, np.take_along_axis(rows, order, -1)


def _show_top(name: str, array: "Array", count: int) -> None:
    indices, values = top_values(array, count)
    width = indices.shape[-1]
    places = [str(list(at)) if at else "" for at in _positions(indices.shape[:-1])]
    rows = [
        (place, rank + 1, index, f"{value:.6g}")
        for place, row, found in zip(
            places,
            indices.reshape(-1, width).tolist() if width else [],
            values.reshape(-1, width).tolist() if width else [],
            strict=False,
        )
        for rank, (index, value) in enumerate(zip(row, found, strict=True))
    ]
    columns = ("row", "rank", "index", "value")
    title = f"{name}  {shape_text(array.dtype.name, array.shape)}"
    print_table(title, columns, rows, ("rank", "index", "value"))


def _positions(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    import numpy as np

    return [tuple(int(i) for i in at) for at in np.ndindex(*shape)]


def _as_json(name: str, array: "Array", print_top: int | None) -> dict[str, Any]:
    data: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if print_top is None:
        data["values"] = array.tolist()
    else:
        indices, values = top_values(array, print_top)
        data["top"] = {"indices": indices.tolist(), "values": values.tolist()}
    return data
