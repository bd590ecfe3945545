"""Integers for floats: scales and zero points, and the one definition of rounding and saturation.

Plain NumPy. What kernels compute is held against the functions here to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BOUNDS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
}
"""Smallest and largest value of the types that tensors are quantized to."""

_LEAST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class QuantizationScheme:
    """What a target's integer arithmetic wants; products are added up in int32.

    Attributes:
        activation: type of activations.
        weight: type of weights.
        symmetric_activations: whether zero points of activations must be the middle of the type (0,
            or 128 of uint8).
        symmetric_weights: whether zero points of weights must be 0.
        per_channel: whether each output channel of a weight may have a scale of its own.
        weight_limit: largest magnitude of a quantized weight. 64 where the sum of two products of
            uint8 and int8 must fit 16 bits: 2 * 255 * 64 < 2**15.
    """

    activation: str = "uint8"
    weight: str = "int8"
    symmetric_activations: bool = False
    symmetric_weights: bool = True
    per_channel: bool = True
    weight_limit: int = 127


@dataclass(frozen=True, eq=False)
class Encoding:
    """How floats become integers: `q = saturate(round(x / scale) + zero_point)`.

    Attributes:
        scale: float32, positive; a scalar array, or 1-D with one per index of `axis`.
        zero_point: of `dtype` and of the shape of `scale`.
        dtype: NumPy's name of the integer type, one of `BOUNDS`.
        axis: which axis of the tensor has scales of its own; None for one scale.
        limit: largest distance from the zero point, where it is less than what `dtype` allows.
    """

    scale: Array
    zero_point: Array
    dtype: str
    axis: int | None = None
    limit: int | None = None

    @classmethod
    def of_range(
        cls,
        low: npt.ArrayLike,
        high: npt.ArrayLike,
        dtype: str,
        *,
        symmetric: bool = False,
        limit: int | None = None,
        axis: int | None = None,
    ) -> Self:
        """The encoding whose integers just cover the floats from `low` to `high`, and zero.

        Asymmetric: `scale = (high - low) / (max - min)`; the zero point is where 0 comes to lie,
        rounded. Symmetric: `scale = max(|low|, |high|) / limit`. A range of nothing but zero gets
        the scale 1.

        Args:
            low: smallest float; a scalar, or 1-D along `axis`. Finite.
            high: largest float, likewise.
            dtype: one of `BOUNDS`.
            symmetric: the zero point is the middle of the type.
            limit: largest distance from the zero point; needs `symmetric`.
            axis: the axis of the tensor that `low` and `high` belong to, when they are 1-D.

        Raises:
            ValueError: a bound that is not finite, or `limit` without `symmetric`.
        """
        lows = np.minimum(np.asarray(low, np.float64), 0)
        highs = np.maximum(np.asarray(high, np.float64), 0)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise ValueError(f"a range is finite, got {low} to {high}")
        if limit is not None and not symmetric:
            raise ValueError("a limit needs a symmetric encoding")
        smallest, largest = BOUNDS[dtype]
        middle = (smallest + largest + 1) // 2
        if symmetric:
            steps = largest - middle if limit is None else min(limit, largest - middle)
            scale = _usable(np.maximum(-lows, highs) / steps)
            zero_point = np.full_like(lows, middle)
            return cls(scale, np.asarray(zero_point, dtype), dtype, axis, steps)
        scale = _usable((highs - lows) / (largest - smallest))
        zero_point = np.clip(np.rint(smallest - lows / scale), smallest, largest)
        return cls(scale, np.asarray(zero_point, dtype), dtype, axis)

    def quantize(self, values: Array) -> Array:
        """The nearest integers, of the shape of `values` (float32); see `quantize`."""
        scale, zero_point = self._along(values.ndim)
        return quantize(values, scale, zero_point, self.limit)

    def dequantize(self, integers: Array) -> Array:
        """The floats that integers stand for; see `dequantize`."""
        return dequantize(integers, *self._along(integers.ndim))

    def round_trip(self, values: Array) -> Array:
        """What is left of `values` after quantizing them: float32."""
        return self.dequantize(self.quantize(values))

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The smallest and largest float that integers stand for, of the shape of `scale`."""
        smallest, largest = BOUNDS[self.dtype]
        center = self.zero_point.astype(np.int64)
        if self.limit is not None:
            smallest = np.maximum(smallest, center - self.limit)
            largest = np.minimum(largest, center + self.limit)
        step = self.scale.astype(np.float64)
        return (smallest - center) * step, (largest - center) * step

    def _along(self, rank: int) -> tuple[Array, Array]:
        if self.axis is None:
            return self.scale, self.zero_point
        return along(self.scale, self.axis, rank), along(self.zero_point, self.axis, rank)


def along(values: Array, axis: int, rank: int) -> Array:
    """A 1-D array that broadcasts along one axis of a tensor of this rank."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def quantize(values: Array, scale: Array, zero_point: Array, limit: int | None = None) -> Array:
    """`saturate(round_half_even(values / scale) + zero_point)`, as ONNX's QuantizeLinear.

    The division is one of float32. The result has the type of `zero_point`; NaN has none.

    Args:
        values: float32.
        scale: float32, broadcast to `values`.
        zero_point: integers, broadcast likewise.
        limit: largest distance from the zero point, if less than the type allows.
    """
    smallest, largest = BOUNDS[zero_point.dtype.name]
    with np.errstate(over="ignore"):  # infinity saturates
        steps = np.rint(np.asarray(values, np.float32) / scale, dtype=np.float32)
    # float64 holds every sum of an int32 and a saturated step.
    shifted = np.asarray(steps, np.float64)
    if limit is not None:
        shifted = np.clip(shifted, -limit, limit)
    return np.clip(shifted + zero_point, smallest, largest).astype(zero_point.dtype)


def quantize_rows(values: Array) -> tuple[Array, Array, Array]:
    """Each row in steps of its own range, zero included: uint8, its scale, and its zero point.

    `scale = (max - min) / 255`; the zero point is where 0 comes to lie, rounded. All arithmetic is
    one of float32.

    Args:
        values: float32, `[.., M, K]`.

    Returns:
        Integers `[.., M, K]`, and float32 scales and int32 zero points `[.., M, 1]`.
    """
    low = np.minimum(values.min(-1, keepdims=True), np.float32(0))
    high = np.maximum(values.max(-1, keepdims=True), np.float32(0))
    scale = np.maximum((high - low) / np.float32(255), np.float32(_LEAST_SCALE))
    zero_point = np.rint(np.minimum((0 - low) / scale, np.float32(255))).astype(np.int32)
    steps = np.rint(values / scale).astype(np.int32) + zero_point
    return np.minimum(steps, 255).astype(np.uint8), scale, zero_point


def dequantize(integers: Array, scale: Array, zero_point: Array) -> Array:
    """`(integers - zero_point) * scale` in float32, as ONNX's DequantizeLinear."""
    steps = integers.astype(np.int64) - zero_point.astype(np.int64)
    return steps.astype(np.float32) * np.asarray(scale, np.float32)


def multiplier(x_scale: Array, w_scale: Array, y_scale: Array) -> Array:
    """What turns a sum of products of two encodings into steps of a third: `x * w / y`.

    Computed in float32 in that order; one per output channel where `w_scale` has so many.
    """
    product = np.asarray(x_scale, np.float32) * np.asarray(w_scale, np.float32)
    return np.asarray(product / np.asarray(y_scale, np.float32), np.float32)


def requantize(
    sums: Array,
    factor: Array,
    zero_point: Array,
    bounds: Sequence[int] | None = None,
) -> Array:
    """`saturate(round_half_even(float32(sums) * factor) + zero_point)`.

    Args:
        sums: int32.
        factor: float32 (see `multiplier`), broadcast to `sums`.
        zero_point: a scalar array of the type of the result.
        bounds: smallest and largest result, for a ReLU or a Clip; by default those of the type.
    """
    smallest, largest = BOUNDS[zero_point.dtype.name] if bounds is None else bounds
    with np.errstate(over="ignore"):
        steps = np.rint(sums.astype(np.float32) * np.asarray(factor, np.float32))
    return np.clip(steps.astype(np.float64) + zero_point, smallest, largest).astype(
        zero_point.dtype
    )


def _usable(scale: Array) -> Array:
    """Scales as float32 that one can divide by."""
    positive = np.where(scale > 0, np.maximum(scale, _LEAST_SCALE), 1.0)
    return np.asarray(positive, np.float32)
