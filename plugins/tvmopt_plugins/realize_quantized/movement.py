"""Operators that choose or move elements do so with the integers."""

from typing import Any, TypeGuard

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op, remake, shape_of
from tvmopt_plugins.realize_quantized.quantized import Quantized, dequantized, of_call

_NAMES = (
    "broadcast_to expand_dims flatten flip nn.max_pool2d permute_dims repeat reshape squeeze "
    "strided_slice take tile"
)
_MOVES = tuple(f"relax.{name}" for name in _NAMES.split())


def is_move(value: relax.Expr | None) -> TypeGuard[relax.Call]:
    """Whether each element of the result is an element of the first operand, or its padding."""
    if is_op(value, "relax.image.resize2d"):
        return str(attrs_of(value).method) == "nearest_neighbor"
    return is_op(value, *_MOVES, "relax.nn.pad")


def move_integers(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """Moves integers instead of floats; exact.

    - `move(dequantize(q)) = dequantize(move(q))`; and `quantize` undoes `dequantize`.
    - `quantize(move(x)) = move(quantize(x))`, for other operands.
    - `quantize(concat(x, y)) = concat(quantize(x), quantize(y))`.
    """
    if is_op(value, "relax.quantize"):
        same = _undo(value, graph)
        return _quantize_first(value, graph) if same is None else same
    if is_op(value, "relax.nn.relu"):
        return _rectify(value, graph)
    if is_op(value, "relax.concat"):
        return _join(value, graph)
    if isinstance(value, relax.TupleGetItem):
        return _part(value, graph)
    if not is_move(value):
        return None
    if dtype_of(value) in ("uint8", "int8"):
        return _reshape_back(value, graph)
    producer = graph.producer(value.args[0])
    if not is_op(producer, "relax.dequantize"):
        return None
    encoded = of_call(producer)
    if encoded is None or not encoded.is_per_tensor:
        return None
    # A constant's own transposes are the weight's layout, which its product reads; a table is not.
    if constant_value(encoded.values) is not None and not is_op(value, "relax.take"):
        return None
    moved = _moved(value, encoded.values, encoded, dtype_of(encoded.values))
    return None if moved is None else relax.op.dequantize(moved, *producer.args[1:], axis=-1)


def _moved(
    move: relax.Call, integers: relax.Expr, encoding: Quantized, dtype: str
) -> relax.Expr | None:
    """The move of the integers; None where its padding is between two of them."""
    if is_op(move, "relax.nn.pad"):
        fill = np.float32(attrs_of(move).pad_value)
        place = float(np.float32(fill / encoding.scale) + encoding.zero_point)
        bounds = np.iinfo(dtype)
        if place != np.rint(place) or not bounds.min <= place <= bounds.max:
            return None
        return remake(move, [integers], pad_value=place)
    return relax.Call(move.op, [integers, *move.args[1:]], move.attrs, move.ty_args)


def _quantize_first(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """Where the move has no other consumer, or is a concatenation of dequantized parts."""
    move, encoding = graph.producer(value.args[0]), of_call(value)
    if encoding is None or not encoding.is_per_tensor:
        return None
    if is_op(move, "relax.concat") and isinstance(move.args[0], relax.Tuple):
        parts = list(move.args[0].fields)
        dequantized_parts = [one for one in parts if dequantized(one, graph) is not None]
        if graph.uses(value.args[0]) != 1 and len(dequantized_parts) != len(parts):
            return None
        return relax.op.concat([_quantized(one, value) for one in parts], attrs_of(move).axis)
    if not is_move(move) or graph.uses(value.args[0]) != 1 or dtype_of(move) != "float32":
        return None
    if constant_value(move.args[0]) is not None or dequantized(move.args[0], graph) is not None:
        return None
    return _moved(move, _quantized(move.args[0], value), encoding, dtype_of(value))


def _quantized(data: relax.Expr, like: relax.Call) -> relax.Expr:
    return relax.op.quantize(data, *like.args[1:], axis=-1, out_dtype=dtype_of(like))


def _undo(value: relax.Call, graph: Graph) -> relax.Expr | None:
    inner, outer = dequantized(value.args[0], graph), of_call(value)
    if inner is None or outer is None or dtype_of(value) != dtype_of(inner.values):
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


def _join(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """A concatenation of parts in one encoding."""
    if not isinstance(value.args[0], relax.Tuple):
        return None
    found = [dequantized(one, graph) for one in value.args[0].fields]
    parts = [one for one in found if one is not None and one.is_per_tensor]
    if len(parts) != len(found) or not all(parts[0].same_encoding(one) for one in parts):
        return None
    joined = relax.op.concat([one.values for one in parts], attrs_of(value).axis)
    encoding = graph.producer(value.args[0].fields[0])
    assert isinstance(encoding, relax.Call)
    return relax.op.dequantize(joined, *encoding.args[1:], axis=-1)


def _part(value: relax.TupleGetItem, graph: Graph) -> relax.Expr | None:
    """A part of `relax.split` as the slice that it is."""
    split = graph.producer(value.tuple_value)
    if not is_op(split, "relax.split") or dequantized(split.args[0], graph) is None:
        return None
    axis, types = int(attrs_of(split).axis), split.ty
    parts: Any = types
    sizes = [int(one.shape.values[axis]) for one in parts.fields]
    begin = sum(sizes[: value.index])
    return relax.op.strided_slice(split.args[0], [axis], [begin], [begin + sizes[value.index]])


def _reshape_back(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """`reshape(reshape(q)) = q`, where the shape is the first one again."""
    inner = graph.producer(value.args[0])
    if not is_op(value, "relax.reshape") or not is_op(inner, "relax.reshape"):
        return None
    return inner.args[0] if shape_of(inner.args[0]) == shape_of(value) else None
