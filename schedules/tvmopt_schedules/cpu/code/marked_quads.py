"""Products of 8-bit integers without VNNI, added up in 16 bits, and exact for all weights.

`vpmaddubsw` adds two products of a uint8 and an int8 in 16 bits, where magnitudes of the weights up
to 128 fit, all of one sign together. Two of its results fit for nearly all weights of 7 bits, one
for nearly all of 8 bits: fewer instructions than wider sums. What of constant weights does not fit,
the excess, is split off; a step of the reduction that has some is marked, and multiplies it apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import ir

from tvmopt_schedules.cpu.code.operators import pure_operator

DOT_OCTS = "tvmopt.dot_octs"
"""`(a0, a1, b0, b1, mark, e0, e1) -> int32`: the sum of the products of two quads `a` with `b`, and
with the excess `e`, which is zeros where `mark` is 0."""

DOT_MARKED_QUADS = "tvmopt.dot_marked_quads"
"""`(a, b, mark, e) -> int32`: the same of one quad."""

_OCTS = pure_operator(DOT_OCTS)
_MARKED_QUADS = pure_operator(DOT_MARKED_QUADS)
_REACH = 128  # 128 * 255 fits in int16
_PAIR = 2
_QUAD = 4

Array = np.ndarray[Any, Any]


def dot_octs(*operands: Any) -> Any:
    """The sum of the products of two quads, as int32."""
    return ir.Call(_OCTS, list(operands), ret_ty="int32")


def dot_marked_quads(*operands: Any) -> Any:
    """The product of two quads, as int32."""
    return ir.Call(_MARKED_QUADS, list(operands), ret_ty="int32")


@dataclass(frozen=True)
class Split:
    """Weights whose sums fit in 16 bits, and what is left of the others.

    Attributes:
        fitting: the weights without excess, as they were given.
        marks: int32 by step; the row of `excess`, or 0 for none.
        excess: int8 `[rows, 4 * quads, b]`; the first is zeros.
    """

    fitting: Array
    marks: Array
    excess: Array


def split_excess(packed: Array, quads: int) -> Split:
    """Splits int8 weights `[..., f, b]`, of `f` input and `b` output channels.

    `quads` of input channels are a step. Weights whose excess does not fit in turn, with 8 bits and
    two quads, are none of its business.
    """
    *outer, factor, block = packed.shape
    steps = factor // (_QUAD * quads)
    words = packed.astype("int32").reshape(*outer, steps, quads, _PAIR, _PAIR, block)
    fitting = (_within(words) - _within(-words)).astype("int8").reshape(packed.shape)
    rest = (packed - fitting).reshape(*outer, steps, _QUAD * quads, block)
    marked = rest.any((-2, -1))
    marks = np.where(marked, marked.cumsum().reshape(marked.shape), 0).astype("int32")
    excess = np.concatenate([np.zeros((1, *rest.shape[-2:]), "int8"), rest[marked]])
    return Split(fitting, marks, excess)


def _within(words: Array) -> Array:
    """The positive numbers, as much of them as the sum over `[quads, :, 2]` may hold."""
    positive = np.moveaxis(np.maximum(words, 0), -3, -4)
    flat = positive.reshape(*positive.shape[:-3], -1, positive.shape[-1])
    before = flat.cumsum(-2) - flat
    kept = np.clip(_REACH - before, 0, flat).reshape(positive.shape)
    return np.moveaxis(kept, -4, -3)
