"""Options that several subcommands share, and the small languages of their values."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from tvmopt.cli.session import Session
from tvmopt.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

# A name may hold colons (TensorFlow's `input:0`), so the shape's bracket ends it.
_SHAPE = re.compile(r"\s*(?P<name>[^,\s](?:(?!:\s*\[).)*?)\s*:\s*\[(?P<dims>[^\[\]]*)\]\s*(?:,|$)")


def _set_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001
    session = ctx.find_object(Session)
    if value and session is not None:
        session.verbose = True


def verbose_option(function: F) -> F:
    """`-v`: more detail, and tracebacks; kept in the `Session`."""
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Show more, and Python's traceback on an error.",
    )(function)


def json_option(function: F) -> F:
    """`--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def threads_option(function: F) -> F:
    """`--threads`; None stands for the number of physical cores."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Threads to run on.  [default: physical cores]",
    )(function)


def shape_options(function: F) -> F:
    """`--input-shapes` and `--dim`, for `parse_input_shapes` and `parse_dims`."""
    function = click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        help="The size of a symbolic dimension, as in batch=1.",
    )(function)
    return click.option(
        "--input-shapes",
        multiple=True,
        metavar="NAME:[D,...]",
        help='Shapes of inputs with open dimensions, as in "x:[1,3,224,224]".',
    )(function)


def inputs_options(function: F) -> F:
    """`--inputs`, `--fill-mode` and `--seed`: what a package runs on."""
    function = click.option(
        "--seed", type=click.IntRange(min=0), default=0, metavar="N", help="For --fill-mode random."
    )(function)
    function = click.option(
        "--fill-mode",
        type=click.Choice(["random", "ones", "zeros"]),
        default="random",
        show_default=True,
        help="What inputs that are not given hold.",
    )(function)
    return click.option(
        "--inputs",
        multiple=True,
        metavar="[NAME=]FILE",
        help="A .npz, .npy or .pb file, or a folder with input_0.pb, input_1.pb, ...; repeatable.",
    )(function)


def parse_input_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Reads `x:[1,3,224,224]`, also several after commas; one alone needs no brackets.

    Raises:
        UsageError: another form, a dimension that is no positive number, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for given in texts:
        name, colon, dims = given.rpartition(":")
        text = f"{name}:[{dims}]" if colon and name and "[" not in given else given
        position = 0
        while position < len(text) or not text:
            match = _SHAPE.match(text, position)
            if match is None:
                raise UsageError(
                    f"--input-shapes '{given}' is not of the form NAME:[d0,d1,...]",
                    'for example --input-shapes "x:[1,3,224,224]"',
                )
            name = match["name"]
            if name in shapes:
                raise UsageError(f"--input-shapes gives '{name}' twice")
            shapes[name] = tuple(_dimension(d, name) for d in match["dims"].split(",") if d.strip())
            position = match.end()
    return shapes


def parse_dims(texts: Iterable[str]) -> dict[str, int]:
    """Reads `batch=1`.

    Raises:
        UsageError: another form, a size that is no positive number, or a name given twice.
    """
    dims: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name.strip():
            raise UsageError(
                f"--dim '{text}' is not of the form NAME=SIZE", "for example --dim batch=1"
            )
        if name.strip() in dims:
            raise UsageError(f"--dim gives '{name.strip()}' twice")
        dims[name.strip()] = _dimension(size, name.strip())
    return dims


def parse_passes(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Reads `layout`, `layout:block=8` and `layout:block=8,weights=false`.

    Raises:
        UsageError: another form.
    """
    passes: dict[str, dict[str, str]] = {}
    for text in texts:
        name, colon, options = text.partition(":")
        chosen = passes.setdefault(name.strip(), {})
        for pair in options.split(",") if colon else ():
            key, equals, value = pair.partition("=")
            if not equals or not key.strip():
                message = f"--pass '{text}': '{pair}' is not of the form key=value"
                raise UsageError(message, "write --pass NAME or --pass NAME:key=value,key=value")
            chosen[key.strip()] = value.strip()
    return passes


def _dimension(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()) or int(text) == 0:
        message = f"a dimension of '{name}' is '{text.strip()}', which is no positive number"
        raise UsageError(message, "shapes are fixed when a model is compiled: give every size")
    return int(text)
