"""Rows of a tensor: what is reduced together, and where its elements are."""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te


def elements(shape: Sequence[Any], value: Callable[..., Any], name: str) -> te.Tensor:
    """A tensor of `value(*indices)`."""
    result = te.compute(shape, value, name=name)
    assert isinstance(result, te.Tensor)
    return result


class Rows:
    """A tensor's shape with some of its axes reduced; the kept axes number the rows."""

    def __init__(self, shape: Sequence[Any], axes: Sequence[int]) -> None:
        self.shape = list(shape)
        self.axes = sorted(axis % len(self.shape) for axis in axes)
        self.kept = [axis for axis in range(len(self.shape)) if axis not in self.axes]

    @property
    def length(self) -> Any:
        """Elements of one row."""
        length: Any = 1
        for axis in self.axes:
            length = length * self.shape[axis]
        return length

    def of(self, indices: Sequence[Any]) -> list[Any]:
        """The row of the element at `indices`."""
        return [indices[axis] for axis in self.kept]

    def reduce(self, combine: Callable[..., Any], term: Callable[..., Any], name: str) -> te.Tensor:
        """One value per row: `combine` (te.sum, te.max ...) of `term(*indices)` over the row."""
        reduced = [te.reduce_axis((0, self.shape[axis]), f"k{axis}") for axis in self.axes]

        def row(*indices: Any) -> Any:
            full: list[Any] = [None] * len(self.shape)
            for axis, index in zip(self.kept, indices, strict=True):
                full[axis] = index
            for axis, index in zip(self.axes, reduced, strict=True):
                full[axis] = index
            return combine(term(*full), axis=reduced)

        return elements([self.shape[axis] for axis in self.kept], row, name)

    def map(self, value: Callable[..., Any], name: str) -> te.Tensor:
        """One value per row: `value(*row)`."""
        return elements([self.shape[axis] for axis in self.kept], value, name)
