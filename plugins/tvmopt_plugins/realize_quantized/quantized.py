"""Reading `relax.quantize` and `relax.dequantize`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op, shape_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Quantized:
    """Integers that stand for `(values - zero_point) * scale`.

    Attributes:
        values: the integers.
        scale: float32, a scalar or one number for each index of `axis`.
        zero_point: int32, of the shape of `scale`.
        axis: of `values`; None for scalars.
    """

    values: relax.Expr
    scale: Array
    zero_point: Array
    axis: int | None

    @property
    def is_per_tensor(self) -> bool:
        """Whether all elements share one scale."""
        return self.axis is None

    def same_encoding(self, other: "Quantized") -> bool:
        """Whether the same integers stand for the same numbers."""
        return (
            dtype_of(self.values) == dtype_of(other.values)
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def dequantized(expr: relax.Expr, graph: Graph) -> Quantized | None:
    """What an expression that was just dequantized is made of."""
    producer = graph.producer(expr)
    return of_call(producer) if is_op(producer, "relax.dequantize") else None


def of_call(call: relax.Call) -> Quantized | None:
    """Operand and encoding of a quantize or dequantize; None where they are not constant."""
    values, scale, zero_point = call.args
    scales, zeros = constant_value(scale), constant_value(zero_point)
    shape = shape_of(values)
    if scales is None or zeros is None or shape is None or scales.dtype != np.float32:
        return None
    zeros = zeros.astype("int32")
    if scales.size == 1 and zeros.size == 1:
        return Quantized(values, scales.reshape(()), zeros.reshape(()), None)
    axis = int(attrs_of(call).axis) % len(shape)
    length = (shape[axis],)
    if scales.shape not in ((), (1,), length) or zeros.shape not in ((), (1,), length):
        return None
    return Quantized(
        values,
        np.broadcast_to(scales.reshape(-1), length),
        np.broadcast_to(zeros.reshape(-1), length),
        axis,
    )


@dataclass(frozen=True)
class QuantizedConstant:
    """A weight `(array - zero) * scale`.

    Attributes:
        array: int8.
        scale: float32, one for each index of `axis` or one for all.
        zero: int32, of the shape of `scale`; all 0 where that can be had.
        axis: of `array`; None for scalars.
    """

    array: Array
    scale: Array
    zero: Array
    axis: int | None

    @property
    def is_centred(self) -> bool:
        """Whether 0 stands for zero."""
        return not self.zero.any()


def quantized_constant(expr: relax.Expr, graph: Graph) -> QuantizedConstant | str:
    """The weight that an expression is, seen through transposes and new axes; or why it is none."""
    producer = graph.producer(expr)
    if is_op(producer, "relax.permute_dims"):
        inner = quantized_constant(producer.args[0], graph)
        if isinstance(inner, str):
            return inner
        given = attrs_of(producer).axes
        rank = inner.array.ndim
        axes = [int(a) for a in given] if given else list(reversed(range(rank)))
        axis = None if inner.axis is None else axes.index(inner.axis)
        return replace(inner, array=inner.array.transpose(axes), axis=axis)
    if is_op(producer, "relax.reshape"):
        inner, shape = quantized_constant(producer.args[0], graph), shape_of(expr)
        if isinstance(inner, str):
            return inner
        first = 1 if inner.axis == 0 else 0
        if (
            shape is None
            or inner.axis not in (None, 0)
            or shape[:first] != inner.array.shape[:first]
        ):
            return "its weight is reshaped across its channels"
        return replace(inner, array=inner.array.reshape(shape))
    found = dequantized(expr, graph)
    array = None if found is None else constant_value(found.values)
    if found is None:
        return "only one of its operands is quantized"
    if array is None:
        return "both of its operands are computed at run time"
    if array.dtype not in (np.int8, np.uint8):
        return f"its weight is stored in {array.dtype}"
    return _in_int8(array.astype("int16"), found)


def _in_int8(array: Array, encoding: Quantized) -> QuantizedConstant:
    """The weight about zero, where its integers fit in int8 so; else what is next to it."""
    shape = [1] * array.ndim
    if encoding.axis is not None:
        shape[encoding.axis] = -1
    centred = array - encoding.zero_point.reshape(shape)
    limits, zero = np.iinfo("int8"), np.zeros_like(encoding.zero_point)
    if centred.min(initial=0) < limits.min or centred.max(initial=0) > limits.max:
        above = 128 if array.max(initial=0) > limits.max else 0
        centred, zero = array - above, encoding.zero_point - above
    return QuantizedConstant(
        np.ascontiguousarray(centred.astype("int8")), encoding.scale, zero, encoding.axis
    )
