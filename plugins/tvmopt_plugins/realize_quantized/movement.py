"""Operators that choose or move elements do so with the integers."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op
from tvmopt_plugins.realize_quantized.quantized import dequantized, of_call

_NAMES = (
    "broadcast_to expand_dims flatten flip nn.max_pool2d permute_dims repeat reshape squeeze "
    "strided_slice take tile"
)
_MOVES = tuple(f"relax.{name}" for name in _NAMES.split())


def move_integers(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`move(dequantize(q)) = dequantize(move(q))`, exact; and `quantize` undoes `dequantize`."""
    if is_op(value, "relax.quantize"):
        return _undo(value, graph)
    if is_op(value, "relax.nn.relu"):
        return _rectify(value, graph)
    if not is_op(value, *_MOVES):
        return None
    producer = graph.producer(value.args[0])
    if not is_op(producer, "relax.dequantize"):
        return None
    encoded = of_call(producer)
    # A constant's own transposes are the weight's layout, which its product reads.
    if encoded is None or not encoded.is_per_tensor or constant_value(encoded.values) is not None:
        return None
    moved = relax.Call(value.op, [encoded.values, *value.args[1:]], value.attrs, value.ty_args)
    return relax.op.dequantize(moved, *producer.args[1:], axis=-1)


def _undo(value: relax.Call, graph: Graph) -> relax.Expr | None:
    inner, outer = dequantized(value.args[0], graph), of_call(value)
    if (
        inner is None
        or outer is None
        or str(attrs_of(value).out_dtype) != str(inner.values.ty.dtype)
    ):
        return None
    same = (
        inner.axis == outer.axis
        and np.array_equal(inner.scale, outer.scale)
        and np.array_equal(inner.zero_point, outer.zero_point)
    )
    return inner.values if same else None


def _rectify(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """`relu(dequantize(q)) = dequantize(max(q, zero_point))`; `q` itself where zero is lowest."""
    producer = graph.producer(value.args[0])
    encoded = dequantized(value.args[0], graph)
    if encoded is None or not encoded.is_per_tensor:
        return None
    dtype = dtype_of(encoded.values)
    if int(encoded.zero_point) <= np.iinfo(dtype).min:
        return value.args[0]
    zero = relax.const(int(encoded.zero_point), dtype)
    return relax.op.dequantize(relax.op.maximum(encoded.values, zero), *producer.args[1:], axis=-1)
