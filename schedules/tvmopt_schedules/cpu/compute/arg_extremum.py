"""Argmax and argmin in two passes, each of which is a plain reduction that has vector lanes."""

from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.compute.rows import Rows, elements


def arg_extremum(
    x: te.Tensor, axis: int, *, largest: bool, keepdims: bool, dtype: str
) -> te.Tensor:
    """The first position of the extremum: the least k with `x[k] == max(x)`."""
    axis %= len(x.shape)
    rows = Rows(x.shape, [axis])
    name = "argmax" if largest else "argmin"
    extremum = rows.reduce(te.max if largest else te.min, x, f"{name}_value")
    last = tirx.const(int(x.shape[axis]) - 1, "int32")

    def position(*indices: Any) -> Any:
        found = x(*indices) == extremum(*rows.of(indices))
        return tirx.Select(found, indices[axis].astype("int32"), last)

    first = rows.reduce(te.min, position, f"{name}_position")
    shape = [1 if i == axis else d for i, d in enumerate(x.shape)] if keepdims else first.shape

    def element(*indices: Any) -> Any:
        row = [*indices[:axis], *indices[axis + 1 :]] if keepdims else indices
        return first(*row).astype(dtype)

    return elements(shape, element, name)
