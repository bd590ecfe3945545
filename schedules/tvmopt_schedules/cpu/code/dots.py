"""Instructions that add several products of small numbers to each lane, as definitions use them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvmopt_schedules.cpu.code.pairs import dot_pairs, pair
from tvmopt_schedules.cpu.code.quads import SIZE, dot_quads, quad


@dataclass(frozen=True)
class Dot:
    """How a reduction takes several steps at once.

    Attributes:
        size: neighbours along the reduction that one element of packed weights holds.
        join: makes one element of that many activations.
        multiply: the sum of the products of two such elements.
    """

    size: int
    join: Callable[..., Any]
    multiply: Callable[[Any, Any], Any]


PAIRS = Dot(2, pair, dot_pairs)
"""Two bfloat16, added in float32."""

QUADS = Dot(SIZE, quad, dot_quads)
"""Four 8-bit integers, added in int32."""

NARROW_QUADS = Dot(SIZE, quad, partial(dot_quads, narrow=True))
"""The same with weights that `tvmopt_schedules.cpu.code.quads.are_narrow` holds for."""
