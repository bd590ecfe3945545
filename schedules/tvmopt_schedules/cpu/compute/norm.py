"""Normalizations: two passes for mean and centred variance, one for the result.

The centred variance costs one pass over a row that is in the level-1 cache, and does not cancel as
`mean(x^2) - mean(x)^2` does.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.compute.rows import Rows, elements


def layer_norm(
    x: te.Tensor,
    gamma: te.Tensor | None,
    beta: te.Tensor | None,
    axes: Sequence[int],
    epsilon: float,
) -> te.Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, these two in the axes' shape."""
    rows = Rows(x.shape, axes)

    def affine(indices: Sequence[Any], value: Any) -> Any:
        inside = [indices[axis] for axis in rows.axes]
        value = value if gamma is None else value * gamma(*inside)
        return value if beta is None else value + beta(*inside)

    return _normalize(x, rows, epsilon, affine, "layer_norm")


def rms_norm(x: te.Tensor, gamma: te.Tensor, axes: Sequence[int], epsilon: float) -> te.Tensor:
    """`x / sqrt(mean(x^2) + epsilon) * gamma`."""
    rows = Rows(x.shape, axes)

    def square(*indices: Any) -> Any:
        return x(*indices) * x(*indices)

    squares = rows.reduce(te.sum, square, "rms_norm_squares")
    scale = rows.map(_rsqrt_of(squares, rows, epsilon), "rms_norm_scale")

    def element(*indices: Any) -> Any:
        value = x(*indices) * scale(*rows.of(indices))
        return value * gamma(*[indices[axis] for axis in rows.axes])

    return elements(x.shape, element, "rms_norm")


def instance_norm(
    x: te.Tensor,
    gamma: te.Tensor,
    beta: te.Tensor,
    channel_axis: int,
    axes: Sequence[int],
    epsilon: float,
) -> te.Tensor:
    """Layer norm over `axes` with a gamma and a beta per channel."""

    def affine(indices: Sequence[Any], value: Any) -> Any:
        return value * gamma(indices[channel_axis]) + beta(indices[channel_axis])

    return _normalize(x, Rows(x.shape, axes), epsilon, affine, "instance_norm")


def group_norm(
    x: te.Tensor,
    gamma: te.Tensor,
    beta: te.Tensor,
    groups: int,
    channel_axis: int,
    axes: Sequence[int],
    epsilon: float,
) -> te.Tensor:
    """Layer norm over `axes` and the channels of one of `groups` groups."""
    shape = list(x.shape)
    size = shape[channel_axis] // groups
    split = [*shape[:channel_axis], groups, size, *shape[channel_axis + 1 :]]

    def joined(indices: Sequence[Any]) -> list[Any]:
        channel = indices[channel_axis] * size + indices[channel_axis + 1]
        return [*indices[:channel_axis], channel, *indices[channel_axis + 2 :]]

    def shifted(axis: int) -> int:
        return axis + (axis > channel_axis)

    rows = Rows(split, [channel_axis + 1, *(shifted(axis % len(shape)) for axis in axes)])

    def grouped_x(*indices: Any) -> Any:
        return x(*joined(indices))

    mean, scale = _moments(grouped_x, rows, epsilon, "group_norm")

    def element(*indices: Any) -> Any:
        channel = indices[channel_axis]
        inside = (channel // size, channel % size)
        grouped = [*indices[:channel_axis], *inside, *indices[channel_axis + 1 :]]
        row = rows.of(grouped)
        value = (x(*indices) - mean(*row)) * scale(*row)
        return value * gamma(channel) + beta(channel)

    return elements(shape, element, "group_norm")


def _normalize(
    x: te.Tensor,
    rows: Rows,
    epsilon: float,
    affine: Callable[[Sequence[Any], Any], Any],
    name: str,
) -> te.Tensor:
    mean, scale = _moments(x, rows, epsilon, name)

    def element(*indices: Any) -> Any:
        row = rows.of(indices)
        return affine(indices, (x(*indices) - mean(*row)) * scale(*row))

    return elements(x.shape, element, name)


def _moments(
    x: Callable[..., Any], rows: Rows, epsilon: float, name: str
) -> tuple[te.Tensor, te.Tensor]:
    """The mean of each row and the reciprocal of its standard deviation."""
    total = rows.reduce(te.sum, x, f"{name}_sum")

    def mean_of(*row: Any) -> Any:
        return total(*row) * _reciprocal(rows, total.dtype)

    mean = rows.map(mean_of, f"{name}_mean")

    def centred(*indices: Any) -> Any:
        difference = x(*indices) - mean(*rows.of(indices))
        return difference * difference

    squares = rows.reduce(te.sum, centred, f"{name}_squares")
    return mean, rows.map(_rsqrt_of(squares, rows, epsilon), f"{name}_scale")


def _reciprocal(rows: Rows, dtype: str) -> Any:
    return tirx.const(1.0 / int(rows.length), dtype)


def _rsqrt_of(squares: te.Tensor, rows: Rows, epsilon: float) -> Callable[..., Any]:
    """`1 / sqrt(squares / n + epsilon)` of a row."""
    dtype = squares.dtype

    def rsqrt(*row: Any) -> Any:
        variance = squares(*row) * _reciprocal(rows, dtype) + tirx.const(epsilon, dtype)
        return tirx.const(1.0, dtype) / te.sqrt(variance)

    return rsqrt
