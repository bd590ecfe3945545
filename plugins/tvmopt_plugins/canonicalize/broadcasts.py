"""Element-wise operators broadcast by themselves: their operands need not be."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, shape_of

BINARY = (
    "relax.add",
    "relax.subtract",
    "relax.multiply",
    "relax.divide",
    "relax.power",
    "relax.maximum",
    "relax.minimum",
)


def keep_constants_small(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x + [c, c, ...] = x + c`: a constant of equal elements becomes a scalar; exact."""
    if not is_op(value, *BINARY):
        return None
    for position in (0, 1):
        array = constant_value(value.args[position])
        if array is None or array.ndim == 0 or array.size == 0:
            continue
        if shape_of(value.args[1 - position]) != shape_of(value):
            continue
        first = array.reshape(-1)[0]
        if not bool((array == first).all()):
            continue
        scalar = relax.const(np.asarray(first), dtype_of(value.args[position]))
        return _with_operand(value, position, scalar)
    return None


def drop_broadcast(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x + broadcast_to(y) = x + y` where the shapes give the same result; exact."""
    if not is_op(value, *BINARY):
        return None
    shape = shape_of(value)
    if shape is None:
        return None
    for position in (0, 1):
        source = graph.producer(value.args[position])
        if not is_op(source, "relax.broadcast_to"):
            continue
        small, other = shape_of(source.args[0]), shape_of(value.args[1 - position])
        if small is None or other is None or np.broadcast_shapes(small, other) != shape:
            continue
        return _with_operand(value, position, source.args[0])
    return None


def _with_operand(call: relax.Call, position: int, operand: relax.Expr) -> relax.Call:
    args = list(call.args)
    args[position] = operand
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
