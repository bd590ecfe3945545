"""Two constant shifts of one result are one."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, shape_of
from tvmopt_plugins.fold_batch_norm.factors import WEIGHTED


def merge_shifts(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`(conv(x) + a) + b = conv(x) + (a + b)`; one rounding less.

    For what a convolution or matmul gives, where `a` and `b` are biases: of any values, the
    difference is a rounding of the larger of them.
    """
    if not is_op(value, "relax.add") or graph.uses(value.args[0]) != 1:
        return None
    inner, outer_shift = graph.producer(value.args[0]), constant_value(value.args[1])
    if not is_op(inner, "relax.add") or outer_shift is None:
        return None
    inner_shift, data = constant_value(inner.args[1]), inner.args[0]
    if inner_shift is None or not is_op(graph.producer(data), *WEIGHTED):
        return None
    both = np.asarray(inner_shift.astype("float64") + outer_shift).astype(inner_shift.dtype)
    if inner_shift.dtype.kind != "f" or shape_of(data) != shape_of(value):
        return None
    if both.size > max(inner_shift.size, outer_shift.size):
        return None  # [C, 1] and [W] would become [C, W]
    graph.absorb(value.args[0])
    return relax.op.add(data, relax.const(both, dtype_of(value)))
