"""Two programs of one model, layer by layer: where they begin to depart, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvmopt.compiler.compare import FLOAT_LIMIT, unblocked
from tvmopt.compiler.executor import Array
from tvmopt.compiler.programs import Program, Shown, in_floats
from tvmopt.compiler.sensitivity import Noise
from tvmopt.errors import InputError
from tvmopt.report import Steps

_CHUNK_BYTES = 128 << 20
"""What the layers that are held at a time may have, of both programs together."""

LOW_PRECISION_LIMIT = 0.1
"""Relative error that is no departure where a program computes in fewer bits than float32."""

Progress = Callable[[int, int], None]
"""Is told how many layers have been compared, and of how many."""


@dataclass(frozen=True)
class LayerDifference:
    """How far two results of one layer are apart.

    Attributes:
        node: name of the ONNX node that computes it.
        max_abs: largest absolute difference.
        max_rel: that over the largest magnitude of the second program; infinite where one has NaN
            or infinity and the other has not.
        sqnr_db: signal to noise in dB, the second program being the signal.
    """

    node: str
    max_abs: float
    max_rel: float
    sqnr_db: float


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        layers: in the order of execution.
        outputs: likewise, by the outputs' names.
        limit: relative error from which a layer departs.
        batches: inputs that both were run on.
        left_out: layers of the first program that the second one does not show alike.
    """

    layers: tuple[LayerDifference, ...]
    outputs: tuple[LayerDifference, ...]
    limit: float
    batches: int
    left_out: int

    @property
    def first_departure(self) -> LayerDifference | None:
        """The first layer beyond the limit."""
        return next((one for one in self.layers if one.max_rel > self.limit), None)

    @property
    def departs(self) -> bool:
        """Whether an output is beyond the limit."""
        return any(one.max_rel > self.limit for one in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON-serializable data."""
        first = self.first_departure
        return {
            **asdict(self),
            "first_departure": asdict(first) if first else None,
            "departs": self.departs,
        }


def compare_programs(
    ours: Program,
    theirs: Program,
    batches: Iterable[Mapping[str, Array]],
    limit: float | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Comparison:
    """Runs both on the same inputs and compares what nodes of the same name compute.

    A node is compared where both show its tensor in the same shape, their layouts undone and their
    integers as the floats that they stand for. Layers are shown a bounded number of bytes at a
    time, so that memory does not grow with the model, nor with the number of batches.

    Args:
        ours: the program in question.
        theirs: what it is held against.
        batches: inputs; iterated once for each chunk of layers.
        limit: relative error from which a layer departs; by default that of float32 kernels, or
            `LOW_PRECISION_LIMIT` where a program computes in less.
        progress: is told the layers that are done.

    Raises:
        InputError: the programs have other inputs or outputs.
    """
    check_alike(ours, theirs)
    if limit is None:
        exact = ours.is_exact and theirs.is_exact
        limit = FLOAT_LIMIT if exact else LOW_PRECISION_LIMIT
    names = list(dict.fromkeys(spec.name for spec in ours.outputs))
    outputs, count = _differences(names, ours.run, theirs.run, batches, {}, {})
    common = [node for node in ours.sizes if node in theirs.sizes]
    found: dict[str, _Difference] = {}
    done = 0
    for chunk in _chunks(common, ours, theirs):
        pair = ours.showing(chunk), theirs.showing(chunk)
        found |= _differences(chunk, *pair, batches, ours.steps, theirs.steps)[0]
        done += len(chunk)
        progress(done, len(common))
    layers = tuple(found[node].result(node) for node in common if node in found)
    results = tuple(outputs[name].result(name) for name in names)
    return Comparison(layers, results, limit, count, len(ours.sizes) - len(layers))


def check_alike(ours: Program, theirs: Program) -> None:
    """Checks that both take the same inputs and give the same outputs.

    Raises:
        InputError: names the first difference.
    """
    for kind, ones, others in (
        ("input", ours.inputs, theirs.inputs),
        ("output", ours.outputs, theirs.outputs),
    ):
        shapes = [
            {spec.name: (spec.dtype, *spec.shape) for spec in specs} for specs in (ones, others)
        ]
        for name in {**shapes[0], **shapes[1]}:
            first, second = (shape.get(name) for shape in shapes)
            if first != second:
                described = " and ".join(
                    f"{program.title} has {_described(shape)}"
                    for program, shape in ((ours, first), (theirs, second))
                )
                raise InputError(f"{kind} '{name}' differs: {described}", "compare like with like")


def _described(shape: tuple[Any, ...] | None) -> str:
    return "none" if shape is None else f"{shape[0]}{list(shape[1:])}"


def _chunks(nodes: Sequence[str], ours: Program, theirs: Program) -> Iterator[list[str]]:
    chunk: list[str] = []
    size_bytes = 0
    for node in nodes:
        chunk.append(node)
        size_bytes += ours.sizes[node] + theirs.sizes[node]
        if size_bytes > _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


def _differences(
    names: Sequence[str],
    ours: Shown,
    theirs: Shown,
    batches: Iterable[Mapping[str, Array]],
    our_steps: Mapping[str, Steps],
    their_steps: Mapping[str, Steps],
) -> "tuple[dict[str, _Difference], int]":
    """What can be compared of these tensors, and the number of batches."""
    found: dict[str, _Difference] = {}
    count = 0
    for batch in batches:
        mine, others = ours(batch), theirs(batch)
        count += 1
        for name in names:
            pair = _alike(mine[name], others[name], our_steps.get(name), their_steps.get(name))
            if pair is not None:
                found.setdefault(name, _Difference()).add(*pair)
    return found, count


def _alike(
    mine: Array, other: Array, our_steps: Steps | None, their_steps: Steps | None
) -> tuple[Array, Array] | None:
    """Both in one shape and as numbers that mean the same; None where that is not known."""
    plain = unblocked(mine, other.shape)
    if plain is None:
        swapped = unblocked(other, mine.shape)
        if swapped is None:
            return None
        plain, other = mine, swapped
    if plain.dtype == other.dtype and our_steps == their_steps:
        return plain, other
    # Integers of one node mean the same in both, where only one says what they mean.
    ours = in_floats(plain, our_steps or their_steps)
    theirs = in_floats(other, their_steps or our_steps)
    return None if ours is None or theirs is None else (ours, theirs)


class _Difference:
    """Added up over batches."""

    def __init__(self) -> None:
        self._noise = Noise()
        self._max_abs = 0.0
        self._scale = 0.0

    def add(self, ours: Array, theirs: Array) -> None:
        if not theirs.size:
            return
        self._noise.add(ours, theirs)
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            self._max_abs = np.inf
        if finite.any():
            away = np.abs(a[finite] - b[finite])
            self._max_abs = max(self._max_abs, float(np.where(np.isnan(away), np.inf, away).max()))
            self._scale = max(self._scale, float(np.abs(b[finite]).max()))

    def result(self, node: str) -> LayerDifference:
        relative = self._max_abs / self._scale if self._scale else self._max_abs
        return LayerDifference(node, self._max_abs, relative, self._noise.ratio_db)
