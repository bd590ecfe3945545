"""Weights in few bits: `dequantize(constant)` is what the passes after this one look for."""

from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant, constant_value, dtype_of, is_op
from tvmopt_plugins.canonicalize.identities import axes_of


def transpose_stored_weight(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`transpose(dequantize(constant)) = dequantize(transposed constant)`; exact."""
    if not is_op(value, "relax.permute_dims"):
        return None
    inner = graph.producer(value.args[0])
    weight = constant_value(inner.args[0]) if is_op(inner, "relax.dequantize") else None
    if weight is None or not is_op(inner, "relax.dequantize"):
        return None
    if graph.uses(value.args[0]) != 1:
        graph.missed("the transpose of a quantized weight stays: others read the weight as it is")
        return None
    order = axes_of(value)
    scale, zero_point = inner.args[1:]
    return relax.op.dequantize(
        constant(weight.transpose(order)),
        scale,
        zero_point,
        axis=order.index(attrs_of(inner).axis % len(order)),
        out_dtype=dtype_of(value),
    )
