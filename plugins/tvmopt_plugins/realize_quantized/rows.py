"""Matrix products whose rows of activations have scales of their own, known at run time only."""

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant, dtype_of, is_op, shape_of
from tvmopt_plugins.realize_quantized.quantized import quantized_constant


@dataclass(frozen=True)
class _Rows:
    """Integers that stand for `(values - zero_point) * scale`.

    Attributes:
        values: `[.., M, K]`, uint8.
        zero_point: whole numbers in float32, `[.., M, 1]`.
        scale: float32, `[.., M, 1]`.
    """

    values: relax.Expr
    zero_point: relax.Expr
    scale: relax.Expr


def multiply_rows(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`matmul((q - z) s, w t) = (matmul(q, w) - z sum(w)) s t` for `w` about 0, in int32."""
    if not is_op(value, "relax.matmul") or shape_of(value) is None:
        return None
    rows, weight = _rows(value.args[0], graph), quantized_constant(value.args[1], graph)
    if rows is None or isinstance(weight, str) or weight.array.ndim != 2 or weight.axis == 0:
        return None
    if not weight.is_centred:
        return None
    sums = constant(weight.array.sum(0, dtype="int32"))
    total = relax.op.subtract(
        relax.op.matmul(rows.values, constant(weight.array), out_dtype="int32"),
        relax.op.multiply(graph.emit(relax.op.astype(rows.zero_point, "int32")), sums),
    )
    steps = relax.op.multiply(relax.op.astype(total, "float32"), rows.scale)
    return relax.op.multiply(steps, constant(np.ascontiguousarray(weight.scale)))


def _rows(expr: relax.Expr, graph: Graph) -> _Rows | None:
    scaled = graph.producer(expr)
    if not is_op(scaled, "relax.multiply"):
        return None
    centred = graph.producer(scaled.args[0])
    if not is_op(centred, "relax.subtract"):
        return None
    numbers = graph.producer(centred.args[0])
    if not is_op(numbers, "relax.astype") or dtype_of(numbers.args[0]) != "uint8":
        return None
    found = _Rows(numbers.args[0], centred.args[1], scaled.args[1])
    shape = shape_of(found.values)
    each = None if shape is None else (*shape[:-1], 1)
    if any(shape_of(one) != each for one in (found.zero_point, found.scale)):
        return None
    return found
