"""Instructions that add several products of small numbers to each lane, as definitions use them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tvmopt_schedules.cpu.code.marked_quads import dot_marked_quads, dot_octs, split_excess
from tvmopt_schedules.cpu.code.pairs import dot_pairs, pair
from tvmopt_schedules.cpu.code.quads import (
    SIZE,
    adds_in_int32,
    are_narrow,
    dot_quads,
    pack_quads,
    quad,
)
from tvmopt_schedules.cpu.machine import Machine


@dataclass(frozen=True)
class Dot:
    """How a reduction takes several steps at once.

    Attributes:
        size: neighbours along the reduction that one element of packed weights holds.
        join: makes one element of that many activations.
        multiply: the sum of the products of `elements` such elements of activations with as many
            of weights, all in the order of the arguments. If it is `marked`, a mark follows and as
            many of the excess, see `tvmopt_schedules.cpu.code.marked_quads`.
        elements: how many elements a step of the reduction takes.
        marked: whether steps have marks.
    """

    size: int
    join: Callable[..., Any]
    multiply: Callable[..., Any]
    elements: int = 1
    marked: bool = False


PAIRS = Dot(2, pair, dot_pairs)
"""Two bfloat16, added in float32."""

QUADS = Dot(SIZE, quad, dot_quads)
"""Four 8-bit integers, added in int32."""

NARROW_QUADS = Dot(SIZE, quad, partial(dot_quads, narrow=True))
"""The same with weights that `tvmopt_schedules.cpu.code.quads.are_narrow` holds for."""

MARKED_QUADS = Dot(SIZE, quad, dot_marked_quads, marked=True)
"""The same with weights most of which are narrow."""

OCTS = Dot(SIZE, quad, dot_octs, elements=2, marked=True)
"""Eight, with narrow weights most of whose sums fit in 16 bits."""

_GAIN = {OCTS: 1.3, MARKED_QUADS: 1.85}
"""Cycles of the dots that are exact for all such weights, over those of one without excess."""

_EXCESS = 2.0
"""Cycles of an excess over those of its step: its product, and a branch that was not foreseen."""


@dataclass(frozen=True)
class IntegerWeights:
    """Constant weights as kernels multiply them.

    Attributes:
        dot: the products.
        constants: quads `[..., f / 4, b]`; for a dot with marks, those, `[..., steps of f]`, and
            quads of the excess, `[rows, elements, b]`.
    """

    dot: Dot
    constants: tuple[np.ndarray[Any, Any], ...]


def integer_weights(packed: np.ndarray[Any, Any], machine: Machine) -> IntegerWeights:
    """The fastest exact products with constant weights.

    Args:
        packed: int8 `[..., f, b]`: `f` neighbours along the reduction, a multiple of four, for each
            of the `b` lanes of a vector.
        machine: what it is for.
    """
    narrow = are_narrow(packed, -2)
    dot = OCTS if narrow else MARKED_QUADS
    has_words = not machine.features.isdisjoint({"avx2", "avx512bw"})
    if has_words and not adds_in_int32(machine) and packed.shape[-2] % (dot.elements * SIZE) == 0:
        split = split_excess(packed, dot.elements)
        if 1 + _EXCESS * float((split.marks > 0).mean()) < _GAIN[dot]:
            quads = [pack_quads(array, -2) for array in (split.fitting, split.excess)]
            return IntegerWeights(dot, (quads[0], split.marks, quads[1]))
    return IntegerWeights(NARROW_QUADS if narrow else QUADS, (pack_quads(packed, -2),))
