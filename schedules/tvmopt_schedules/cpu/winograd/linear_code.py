"""Products with small constant matrices as straight code on vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

Array = np.ndarray[Any, Any]

Terms = tuple[tuple[int, float], ...]
"""A sum: numbers of values, each with its factor."""


@dataclass(frozen=True)
class Program:
    """`y = M x` in steps.

    Attributes:
        inputs: length of `x`, whose elements are the values 0, 1, ...
        steps: each makes the next value as a sum of earlier ones.
        outputs: for each element of `y` the sum that it is.
    """

    inputs: int
    steps: tuple[Terms, ...]
    outputs: tuple[Terms, ...]

    @property
    def operations(self) -> int:
        """Vector instructions, where a multiplication and an addition are one."""
        sums = (*self.steps, *self.outputs)
        return sum(len(terms) - any(abs(f) == 1 for _, f in terms) for terms in sums)


def program(matrix: Array) -> Program:
    """Shares what rows, or columns, that differ only in signs have in common.

    Rows `e + o` and `e - o` (as points `p` and `-p` give them) take `e` and `o` once. Columns whose
    entries are equal or opposite take the sum and the difference of their inputs.
    """
    rows, count = matrix.shape
    steps: list[Terms] = []
    matrix = matrix.astype("float64")
    columns = [matrix[:, i] for i in range(count)]
    value = list(range(count))
    for p, q in _pairs(columns):
        steps += [((p, 1.0), (q, 1.0)), ((p, 1.0), (q, -1.0))]
        value[p], value[q] = count + len(steps) - 2, count + len(steps) - 1
        columns[p], columns[q] = _parts(columns[p], columns[q])
    reduced = np.stack(columns, axis=1)
    outputs: list[Terms] = [()] * rows
    paired: set[int] = set()
    for p, q in _pairs(list(reduced)):
        terms: list[tuple[int, float]] = []
        for part in _parts(reduced[p], reduced[q]):
            used = np.flatnonzero(part)
            scale = float(part[used[-1]])
            if len(used) == 1:
                terms.append((value[used[0]], scale))
                continue
            steps.append(tuple((value[i], float(part[i]) / scale) for i in used))
            terms.append((count + len(steps) - 1, scale))
        (even, e), (odd, o) = terms
        outputs[p], outputs[q] = ((even, e), (odd, o)), ((even, e), (odd, -o))
        paired.update((p, q))
    for row in set(range(rows)) - paired:
        used = np.flatnonzero(reduced[row])
        outputs[row] = tuple((value[i], float(reduced[row, i])) for i in used)
    return Program(count, tuple(steps), tuple(outputs))


def _parts(one: Array, other: Array) -> tuple[Array, Array]:
    """Where two vectors are equal, and where they are opposite, with zeros elsewhere."""
    same = np.isclose(one, other, rtol=1e-9)
    return np.where(same, one, 0.0), np.where(same, 0.0, one)


def _pairs(vectors: Sequence[Array]) -> list[tuple[int, int]]:
    """Pairs of vectors that are equal in some elements and opposite in others."""
    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    for p, one in enumerate(vectors):
        for q in range(p + 1, len(vectors)):
            other = vectors[q]
            alike = np.allclose(np.abs(one), np.abs(other), rtol=1e-9)
            differ = not np.allclose(one, other) and not np.allclose(one, -other)
            if alike and differ and not taken & {p, q}:
                found.append((p, q))
                taken.update((p, q))
    return found


def emit(
    code: Program,
    vector: Callable[[Callable[[Any], Any]], Any],
    load: Callable[[int, Any], Any],
    store: Callable[[int, Any, Any], Any],
    hold: Callable[[int, Any, Any], Any],
    held: Callable[[int, Any], Any],
) -> list[Any]:
    """The statements of a program.

    Args:
        code: the program.
        vector: does a statement that is made for one lane for all lanes.
        load: an element of `x` in a lane.
        store: the statement that takes an element of `y` in a lane.
        hold: the statement that keeps the value of a step in a lane.
        held: the kept value.
    """

    def value(number: int, lane: Any) -> Any:
        return load(number, lane) if number < code.inputs else held(number - code.inputs, lane)

    def statement(put: Callable[[int, Any, Any], Any], k: int, terms: Terms) -> Any:
        return vector(lambda lane: put(k, lane, _sum(terms, lambda at: value(at, lane))))

    steps = [statement(hold, k, terms) for k, terms in enumerate(code.steps)]
    return steps + [statement(store, k, terms) for k, terms in enumerate(code.outputs)]


def _sum(terms: Terms, value: Callable[[int], Any]) -> Any:
    """The sum, from a term without a factor on: the others are multiplied and added at once."""
    first, *others = sorted(terms, key=lambda term: term[1] != 1.0)
    total = _scaled(value(first[0]), first[1])
    for number, factor in others:
        term = _scaled(value(number), abs(factor))
        total = total - term if factor < 0 else total + term
    return total


def _scaled(value: Any, factor: float) -> Any:
    return value if factor == 1.0 else value * tirx.const(factor, "float32")
