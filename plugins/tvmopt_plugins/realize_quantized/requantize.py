"""What follows a product of integers, down to the next quantization, as one requantization."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from tvm import relax

from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    shape_of,
)
from tvmopt_plugins.realize_quantized.arithmetic import to_floats, to_integers
from tvmopt_plugins.realize_quantized.quantized import Quantized, dequantized, of_call

Array = np.ndarray[Any, Any]

_MOST_BIAS = 3 * 2**29
"""A bias in units of the products' sum; the rest of int32 is left for the sum itself."""


@dataclass(frozen=True)
class _Bounded:
    low: float = -np.inf
    high: float = np.inf

    def clipped(self, low: float, high: float) -> Self:
        """The same between these bounds, too."""
        return replace(
            self,
            low=min(max(self.low, low), high),
            high=max(min(self.high, high), low),
        )


@dataclass(frozen=True, kw_only=True)
class _Sum(_Bounded):
    """`(product + offset) * scale + bias`, bounded; the constants have one shape."""

    product: relax.Expr
    offset: Array
    scale: Array
    bias: Array

    def scaled_by(self, scale: Array) -> relax.Expr | str:
        """The sum over `scale`, without bounds; or why it cannot be had."""
        bias = np.rint(self.bias.astype("float64") / self.scale)
        if np.abs(bias).max(initial=0) >= _MOST_BIAS:
            return "its bias does not fit in int32"
        offset = constant((self.offset + bias).astype("int32"))
        total = relax.op.astype(relax.op.add(self.product, offset), "float32")
        return relax.op.multiply(total, constant((self.scale / scale).astype("float32")))


@dataclass(frozen=True, kw_only=True)
class _Pair(_Bounded):
    """The sum of two dequantized tensors of one shape, bounded."""

    first: Quantized
    second: Quantized

    def scaled_by(self, scale: Array) -> relax.Expr:
        """The sum over `scale`, without bounds."""
        return relax.op.add(
            *(
                to_floats(one.values, one.zero_point, np.asarray(one.scale / scale, "float32"))
                for one in (self.first, self.second)
            )
        )


def requantize(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """A quantization joined with what makes its operand, down from integers.

    - `quantize(clip(p * s + b)) = saturate(round((p + round(b / s)) * (s / t)) + zero)`, for `p`
      the sum of a product in int32. The bias is rounded to the products' scale, as ONNX Runtime and
      others have it.
    - `quantize(clip((p - y) * s + (q - z) * r))
      = saturate(round((p - y) * (s / t) + (q - z) * (r / t)) + zero)`, for integers `p` and `q`.
    """
    if not is_op(value, "relax.quantize"):
        return None
    result = of_call(value)
    if result is None or not result.is_per_tensor:
        return None
    found = _result(value.args[0], graph)
    if found is None:
        return None
    dtype = str(attrs_of(value).out_dtype)
    zero, limits = int(result.zero_point), np.iinfo(dtype)
    low, high = (
        int(np.clip(np.rint(np.float32(bound) / result.scale) + zero, limits.min, limits.max))
        for bound in (found.low, found.high)
    )
    scaled = found.scaled_by(result.scale)
    if isinstance(scaled, str):
        graph.missed(f"computed in float32: {scaled}")
        return None
    return to_integers(scaled, zero, (low, high), dtype)


def _result(expr: relax.Expr, graph: Graph) -> "_Sum | _Pair | None":
    """What is quantized, where nothing else needs it."""
    if graph.uses(expr) != 1:
        return None
    value = graph.producer(expr)
    if is_op(value, "relax.nn.relu", "relax.clip"):
        inner, bounds = _result(value.args[0], graph), _bounds(value)
        return None if inner is None or bounds is None else inner.clipped(*bounds)
    if is_op(value, "relax.add"):
        return _pair(value, graph) or _sum(expr, graph)
    return _sum(expr, graph)


def _bounds(value: relax.Call) -> tuple[float, float] | None:
    if is_op(value, "relax.nn.relu"):
        return 0.0, np.inf
    bounds = [getattr(one, "value", None) for one in value.args[1:]]
    if None in bounds:
        return None
    low, high = (float(getattr(one, "value", one)) for one in bounds)
    return low, high


def _pair(value: relax.Call, graph: Graph) -> _Pair | None:
    found = [dequantized(one, graph) for one in value.args]
    if any(one is None or not one.is_per_tensor for one in found):
        return None
    if any(shape_of(one) != shape_of(value) for one in value.args):
        return None
    first, second = (one for one in found if one is not None)
    return _Pair(first=first, second=second)


def _sum(expr: relax.Expr, graph: Graph) -> _Sum | None:
    if graph.uses(expr) != 1:
        return None
    value = graph.producer(expr)
    if is_op(value, "relax.add"):
        return _biased(value, graph)
    return _product(value, graph) if is_op(value, "relax.multiply") else None


def _biased(value: relax.Call, graph: Graph) -> _Sum | None:
    for data, bias in (value.args, reversed(value.args)):
        array = _constant(bias, graph)
        if array is None:
            continue
        inner = _sum(data, graph)
        if inner is None or not _fits(array.shape, inner.offset.shape):
            return None
        return replace(inner, bias=inner.bias + array.reshape(_like(array, inner.offset)))
    return None


def _constant(expr: relax.Expr, graph: Graph) -> Array | None:
    """A float constant, seen through reshapes and dequantization."""
    array = constant_value(expr)
    if array is not None:
        return array if array.dtype == np.float32 else None
    value = graph.producer(expr)
    if is_op(value, "relax.reshape"):
        inner, shape = _constant(value.args[0], graph), shape_of(expr)
        return None if inner is None or shape is None else inner.reshape(shape)
    found = dequantized(expr, graph)
    stored = None if found is None else constant_value(found.values)
    if found is None or stored is None:
        return None
    shape = [1] * stored.ndim
    if found.axis is not None:
        shape[found.axis] = -1
    centred = stored.astype("float32") - found.zero_point.reshape(shape)
    return centred * found.scale.reshape(shape)


def _product(value: relax.Call, graph: Graph) -> _Sum | None:
    total, scale = value.args
    widened = graph.producer(total)
    factor = constant_value(scale)
    if factor is None or not is_op(widened, "relax.astype") or graph.uses(total) != 1:
        return None
    added = graph.producer(widened.args[0])
    if dtype_of(widened.args[0]) != "int32" or not is_op(added, "relax.add"):
        return None
    offset = constant_value(added.args[1])
    if offset is None or graph.uses(widened.args[0]) != 1:
        return None
    return _Sum(product=added.args[0], offset=offset, scale=factor, bias=np.zeros_like(factor))


def _fits(shape: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Whether a constant of `shape` is one number for each channel, or one for all."""
    while len(shape) > len(channels) and shape[0] == 1:
        shape = shape[1:]
    padded = (1,) * (len(channels) - len(shape)) + shape
    return len(padded) == len(channels) and all(
        one in (1, other) for one, other in zip(padded, channels, strict=True)
    )


def _like(array: Array, channels: Array) -> tuple[int, ...]:
    shape = array.shape[-channels.ndim :] if array.ndim >= channels.ndim else array.shape
    return (1,) * (channels.ndim - len(shape)) + shape
