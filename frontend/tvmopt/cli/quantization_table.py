"""The account of quantization as text: what each layer loses and gains, the worst first."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tvmopt.cli.console import counted, print_table, size_text

if TYPE_CHECKING:
    from tvmopt.report import QuantizedLayer

WORST = 12
"""Layers that are shown unless the user wants all."""
_NAMED = 3
"""Nodes that are named of those that stay float for the same reason."""


def print_quantization(layers: "Sequence[QuantizedLayer]", *, verbose: bool) -> None:
    """Prints what is quantized, and what stays float and why; nothing where there is nothing.

    Args:
        layers: of the report.
        verbose: shows all layers, and all nodes that stay float.
    """
    integers = worst_first(one for one in layers if one.dtype == "int8")
    shown = integers if verbose else integers[:WORST]
    if shown:
        title = "in int8" if len(shown) == len(integers) else f"in int8, the worst {len(shown)}"
        _table(title, shown)
    reasons = stays_float(layers)
    if reasons:
        rows = [(why, len(names), _names(names, verbose=verbose)) for why, names in reasons.items()]
        print_table("what stays float32", ("why", "nodes", "which"), rows, ("nodes",))


def summary(layers: "Sequence[QuantizedLayer]") -> str:
    """How much of a model that was quantized is in integers, in one line."""
    integers = [one for one in layers if one.dtype == "int8"]
    text = f"{len(integers)} of {counted(len(layers), 'layer')} in int8"
    sizes = [(one.bytes_float, one.bytes_int8) for one in integers]
    known = [(a, b) for a, b in sizes if a is not None and b is not None]
    if known:
        before, after = (sum(column) for column in zip(*known, strict=True))
        text += f", their weights {size_text(before)} before, {size_text(after)} after"
    times = [(one.us_float, one.us_int8) for one in integers]
    timed = [(a, b) for a, b in times if a is not None and b is not None]
    if timed:
        before, after = (sum(column) / 1000 for column in zip(*timed, strict=True))
        text += f"; {before:.2f} ms before, {after:.2f} ms after"
    return text


def worst_first(layers: "Iterable[QuantizedLayer]") -> "list[QuantizedLayer]":
    """By what quantizing a layer alone costs the model, then by the noise of its own result."""

    def key(layer: "QuantizedLayer") -> list[float]:
        known = (layer.sensitivity, layer.sqnr_db)
        return [math.inf if one is None else one for one in known]

    return sorted(layers, key=key)


def stays_float(layers: "Iterable[QuantizedLayer]") -> dict[str, list[str]]:
    """The layers that stay float by the reason for it."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if layer.dtype != "int8":
            found.setdefault(layer.why, []).append(name_of(layer))
    return found


def name_of(layer: "QuantizedLayer") -> str:
    """A layer's nodes."""
    return ", ".join(layer.nodes)


def decibels(value: float | None) -> str:
    """A ratio in dB as it is shown; without noise it is infinite."""
    if value is None:
        return "-"
    return "no noise" if value == math.inf else f"{value:.1f}"


def _names(names: Sequence[str], *, verbose: bool) -> str:
    if verbose or len(names) <= _NAMED:
        return "; ".join(names)
    return "; ".join(names[:_NAMED]) + f"; and {len(names) - _NAMED} more"


def _table(title: str, layers: "Sequence[QuantizedLayer]") -> None:
    """A table of layers; a figure that is known of none has no column."""
    texts = {
        "SQNR dB": [decibels(one.sqnr_db) for one in layers],
        "effect dB": [decibels(one.sensitivity) for one in layers],
        "ms before": [milliseconds(one.us_float) for one in layers],
        "ms after": [milliseconds(one.us_int8) for one in layers],
        "size before": [size(one.bytes_float) for one in layers],
        "size after": [size(one.bytes_int8) for one in layers],
    }
    numbers = [name for name, column in texts.items() if any(text != "-" for text in column)]
    columns = ("layer", "op", "dtype", "scheme", *numbers)
    rows = [
        (name_of(one), one.op, one.dtype, one.scheme, *(texts[name][index] for name in numbers))
        for index, one in enumerate(layers)
    ]
    print_table(title, columns, rows, numbers)


def milliseconds(us: float | None) -> str:
    """A time as it is shown."""
    return "-" if us is None else f"{us / 1000:.3f}"


def size(size_bytes: int | None) -> str:
    """A size as it is shown."""
    return "-" if size_bytes is None else size_text(size_bytes)
