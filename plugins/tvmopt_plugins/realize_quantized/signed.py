"""Activations in int8 are stored in uint8, which products read: 128 is added, exactly."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant, constant_value, dtype_of, is_op, remake
from tvmopt_plugins.realize_quantized.movement import is_move
from tvmopt_plugins.realize_quantized.quantized import of_call

_TOP_BIT = 128


def store_unsigned(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`quantize_int8(x, z) = quantize_uint8(x, z + 128) - 128`, and dequantize likewise; exact.

    What moves or compares int8 does so with the uint8 that it was made of. The subtraction is left
    only where a result of the network, or another operator, wants int8.
    """
    if is_op(value, "relax.quantize"):
        return _quantize(value, graph)
    if is_op(value, "relax.dequantize"):
        return _dequantize(value, graph)
    if not is_move(value) or dtype_of(value) != "int8":
        return None
    source = _unsigned(value.args[0], graph)
    if source is None:
        return None
    if is_op(value, "relax.nn.pad"):
        fill = float(attrs_of(value).pad_value) + _TOP_BIT
        return _signed(remake(value, [source], pad_value=fill))
    return _signed(relax.Call(value.op, [source, *value.args[1:]], value.attrs, value.ty_args))


def _quantize(value: relax.Call, graph: Graph) -> relax.Expr | None:
    if dtype_of(value) != "int8" or constant_value(value.args[0]) is not None:
        return None
    found = of_call(value)
    if found is None:
        graph.missed("stays in int8: its scale is computed at run time")
        return None
    data, scale, _ = value.args
    axis = attrs_of(value).axis
    return _signed(relax.op.quantize(data, scale, _raised(found.zero_point), axis, "uint8"))


def _dequantize(value: relax.Call, graph: Graph) -> relax.Expr | None:
    data, scale, _ = value.args
    if dtype_of(data) != "int8" or constant_value(data) is not None:
        return None
    found = of_call(value)
    if found is None:
        return None
    source = _unsigned(data, graph)
    if source is None:
        source = relax.op.bitwise_xor(relax.op.astype(data, "uint8"), _top_bit())
    zero, axis = _raised(found.zero_point), attrs_of(value).axis
    return relax.op.dequantize(source, scale, zero, axis, dtype_of(value))


def _raised(zero_point: np.ndarray) -> relax.Expr:
    return constant((zero_point + _TOP_BIT).astype("uint8"))


def _signed(unsigned: relax.Expr) -> relax.Expr:
    return relax.op.astype(relax.op.bitwise_xor(unsigned, _top_bit()), "int8")


def _unsigned(signed: relax.Expr, graph: Graph) -> relax.Expr | None:
    """What `_signed` made an expression of."""
    value = graph.producer(signed)
    flipped = graph.producer(value.args[0]) if is_op(value, "relax.astype") else None
    return flipped.args[0] if is_op(flipped, "relax.bitwise_xor") else None


def _top_bit() -> relax.Expr:
    return relax.const(_TOP_BIT, "uint8")
