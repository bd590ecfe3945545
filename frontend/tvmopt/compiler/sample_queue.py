"""Samples in, batches of the model's inputs out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmopt.errors import InputError, unknown_name
from tvmopt.model import TensorSpec

Array = npt.NDArray[Any]
Rows = Mapping[str, Array]
"""Arrays by name; the first axis counts samples."""


class SampleQueue:
    """Rows of arrays, until they fill a batch.

    Attributes:
        size: samples of a batch.
    """

    def __init__(self, inputs: Sequence[TensorSpec], *, with_labels: bool = False) -> None:
        self._specs = {spec.name: spec for spec in inputs}
        self._with_labels = with_labels
        self._rows: dict[str, list[Array]] = {}
        self._whole: set[str] = set()
        self.size = inputs[0].shape[0] if inputs[0].shape else 1

    def put(self, rows: Rows) -> None:
        """Takes arrays in; a shape without samples is an error, as is a name that is no input."""
        for name, array in rows.items():
            spec = self._specs.get(name)
            if spec is not None:
                _check_sample(array, spec)
                if spec.shape and array.ndim == len(spec.shape) + 1:
                    self._whole.add(name)
            elif not self._with_labels:
                raise unknown_input(name, self._specs)
            elif not array.ndim:
                continue  # no label: those are counted as samples are
            self._rows.setdefault(name, []).append(array)
        missing = [name for name in self._specs if name not in self._rows]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing")

    def batches(self) -> Iterator[dict[str, Array]]:
        """What is complete by now."""
        while all(self._count(name) >= self._wanted(name) for name in self._names):
            yield {name: self._take(name) for name in self._names}

    def left_over(self, origin: str) -> int:
        """How many samples fill no batch.

        Raises:
            InputError: of one array there are more than of another.
        """
        counts = {name: self._count(name) // self._wanted(name) for name in self._names}
        for name, count in counts.items():
            if count:
                short = min(counts, key=lambda one: counts[one])
                kind = "input " if short in self._specs else ""
                message = f"the data '{origin}' have fewer samples of {kind}'{short}'"
                raise InputError(f"{message} than of '{name}'")
        return max((self._count(name) for name in self._names), default=0)

    @property
    def _names(self) -> list[str]:
        """The inputs and then the labels."""
        return [*self._specs, *(name for name in self._rows if name not in self._specs)]

    def _is_whole(self, name: str) -> bool:
        """Whether each row is a whole input, with an axis more than the model's, or its labels."""
        return name in self._whole or (name not in self._specs and bool(self._whole))

    def _wanted(self, name: str) -> int:
        """How many rows a batch has."""
        if self._is_whole(name):
            return 1
        if name not in self._specs:
            return self.size
        shape = self._specs[name].shape
        return shape[0] if shape else 1

    def _count(self, name: str) -> int:
        return sum(len(rows) if rows.ndim else 1 for rows in self._rows.get(name, []))

    def _take(self, name: str) -> Array:
        wanted, taken = self._wanted(name), list[Array]()
        is_whole, queue = self._is_whole(name), self._rows[name]
        while wanted:
            first = queue[0] if queue[0].ndim else queue[0][np.newaxis]
            taken.append(first[:wanted])
            wanted -= len(taken[-1])
            rest = first[len(taken[-1]) :]
            queue[:1] = [rest] if len(rest) else []
        joined = taken[0] if len(taken) == 1 else np.concatenate(taken)
        is_scalar = name in self._specs and not self._specs[name].shape
        return np.asarray(joined[0]) if is_whole or is_scalar else joined


def _check_sample(array: Array, spec: TensorSpec) -> None:
    if not array.ndim or array.shape[1:] in (spec.shape[1:], spec.shape):
        return
    found, expected = list(array.shape[1:]), list(spec.shape[1:])
    hint = "the first axis counts samples"
    if array.ndim == len(expected):
        hint += ": array[numpy.newaxis] for a single one"
    message = f"samples of input '{spec.name}' have shape {found}, expected {expected}"
    raise InputError(message, hint)


def unknown_input(name: str, known: Iterable[str]) -> InputError:
    """The error for an array that is for no input."""
    error = unknown_name("input of the model", name, known)
    return InputError(str(error), error.hint)
