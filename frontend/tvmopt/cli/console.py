"""How results look: tables and JSON on stdout. Notes go to stderr."""

import json
import math
import sys
from collections.abc import Container, Iterable, Sequence
from typing import Any, cast

import click


def print_json(data: Any) -> None:
    """Prints `data` as JSON on stdout; NaN and infinities, which JSON has not, as text."""
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str)
    click.echo(text)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else str(data)
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in cast("dict[Any, Any]", data).items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in cast("list[Any]", data)]
    return data


def note(text: str) -> None:
    """Prints a line on stderr, which does not mix with a result that is piped on."""
    click.echo(text, err=True)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Container[str] = (),
) -> None:
    """Prints a table on stdout; the columns in `numbers` are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        is_number = column in numbers
        # Names are cut otherwise: fold shows all of them.
        justify = "right" if is_number else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=is_number)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Files and pipes have no width: nothing is wrapped there.
    width = None if sys.stdout.isatty() else 4096
    Console(file=sys.stdout, width=width, highlight=False).print(table, crop=False)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints `name  value` lines on stdout, the values aligned."""
    rows = [(name, str(value)) for name, value in fields]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}".rstrip())


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 thread`, `2 threads`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(size_bytes: float) -> str:
    """A size in the unit that suits it, such as `44.6 MB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def shape_text(dtype: str, shape: Sequence[object]) -> str:
    """A tensor type such as `float32[1, 3, 224, 224]`."""
    return f"{dtype}[{', '.join(map(str, shape))}]"
