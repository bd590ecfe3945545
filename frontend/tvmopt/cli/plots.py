"""Geometry of the plots in the HTML report: numbers in, coordinates out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmopt.cli.console import size_text
from tvmopt.cli.quantization_table import decibels, milliseconds, name_of

if TYPE_CHECKING:
    from tvmopt.report import QuantizedLayer

WIDTH, HEIGHT = 960.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 22.0
"""Margins: the axis and its labels lie in them."""
_SHORT_US = 1000.0
_TICKS = 4


@dataclass(frozen=True)
class Mark:
    """A dot at `(x, y)`, or a bar from the axis up to it; `label` is its tooltip."""

    x: float
    y: float
    label: str
    kind: str


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its label."""

    y: float
    label: str


@dataclass(frozen=True)
class Plot:
    """One plot, a place on the x axis for each layer in the order of execution."""

    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    bar_width: float

    @property
    def bottom(self) -> float:
        """The y of the axis."""
        return HEIGHT - BOTTOM


def noise_plot(layers: "Sequence[QuantizedLayer]", poor_db: float) -> Plot | None:
    """Dots for the effect of each layer and for its own SQNR; None where nothing is known."""
    known = [
        one for layer in layers for one in (layer.sensitivity, layer.sqnr_db) if one is not None
    ]
    if not known:
        return None
    finite = [one for one in known if math.isfinite(one)]
    step = 20.0
    top = step * math.ceil(max([*finite, step]) / step)
    marks: list[Mark] = []
    for index, layer in enumerate(layers):
        x = _x(index, len(layers))
        for value, kind, text in (
            (layer.sqnr_db, "own", "own result"),
            (layer.sensitivity, "effect", "effect on the outputs"),
        ):
            if value is not None:
                kind = "poor" if kind == "effect" and value < poor_db else kind
                label = f"{name_of(layer)}: {text} {decibels(value)} dB"
                marks.append(Mark(x, _y(min(max(value, 0.0), top), top), label, kind))
    count = round(top / step)
    ticks = tuple(Tick(_y(i * step, top), f"{i * step:.0f} dB") for i in range(count + 1))
    return Plot(tuple(marks), ticks, 0.0)


def time_plot(layers: "Sequence[QuantizedLayer]") -> Plot | None:
    """Bars for the time of each layer before and after; None where nothing is known."""
    pairs = [(one.us_float, one.us_int8) for one in layers]
    texts = [(milliseconds(before) + " ms", milliseconds(after) + " ms") for before, after in pairs]
    known = [one for pair in pairs for one in pair if one is not None]
    is_short = max(known, default=0) < _SHORT_US
    return _bars(
        layers, pairs, texts, lambda us: f"{us:.3g} us" if is_short else f"{us / 1000:.3g} ms"
    )


def size_plot(layers: "Sequence[QuantizedLayer]") -> Plot | None:
    """Bars for the size of each layer's weight before and after; None where nothing is known."""
    pairs = [(one.bytes_float, one.bytes_int8) for one in layers]
    texts = [(size_text(before or 0), size_text(after or 0)) for before, after in pairs]
    return _bars(layers, pairs, texts, size_text)


def _bars(
    layers: "Sequence[QuantizedLayer]",
    pairs: "Sequence[tuple[float | None, float | None]]",
    texts: Sequence[tuple[str, str]],
    tick_text: Callable[[float], str],
) -> Plot | None:
    known = [one for pair in pairs for one in pair if one is not None]
    if not known or max(known) <= 0:
        return None
    top = float(max(known))
    width = (WIDTH - LEFT - RIGHT) / len(layers) * 0.36
    marks: list[Mark] = []
    for index, (layer, (before, after), (one, other)) in enumerate(
        zip(layers, pairs, texts, strict=True)
    ):
        if before is None or after is None:
            continue
        x, label = _x(index, len(layers)), f"{name_of(layer)}: {one} before, {other} after"
        marks.append(Mark(x - width, _y(before, top), label, "before"))
        marks.append(Mark(x, _y(after, top), label, "slower" if after > before else "after"))
    ticks = tuple(
        Tick(_y(top * i / _TICKS, top), tick_text(top * i / _TICKS)) for i in range(_TICKS + 1)
    )
    return Plot(tuple(marks), ticks, width)


def _x(index: int, count: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / count, 2)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top, 2)
