"""Weights in 8 bits whose products are of floats."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant, is_op, shape_of
from tvmopt_plugins.realize_quantized.quantized import quantized_constant


def widen_weights(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`matmul(x, w s) = matmul(x, w) s` for integers `w` about 0 with a scale for each column.

    The kernel widens them in registers: memory holds 8 bits.
    """
    if not is_op(value, "relax.matmul") or shape_of(value) is None:
        return None
    data, right = value.args
    weight = quantized_constant(right, graph)
    if isinstance(weight, str) or weight.array.ndim != 2 or weight.axis == 0:
        return None
    if not weight.is_centred:
        return None
    steps = graph.emit(relax.op.astype(constant(weight.array), "float32"))
    scale = constant(np.ascontiguousarray(weight.scale))
    graph.passed("multiplies float32 with a weight that is stored in int8")
    return relax.op.multiply(relax.op.matmul(data, steps), scale)
