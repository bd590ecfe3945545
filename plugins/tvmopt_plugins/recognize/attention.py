"""Attention's scale, of which exporters put a root on the queries and one on the keys."""

from math import isfinite

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, scalar_value, shape_of

_FLOATS = ("float16", "float32", "float64")


def scale_scores(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`(q * a) @ (k * b) = (q @ k) * (a * b)` for scalars; each sum is off by at most 2 ulp of it.

    One multiplication of the scores, which a matmul's epilogue does in registers, instead of two
    passes over queries and keys. Transposes and reshapes may stand between.
    """
    if not is_op(value, "relax.matmul") or dtype_of(value) not in _FLOATS:
        return None
    if any(constant_value(arg) is not None for arg in value.args):
        return None  # a matmul with a weight: fold-batch-norm has had its turn
    factors = [_factor(arg, graph) for arg in value.args]
    factor = float(np.prod(factors))
    if factor == 1 and factors == [1, 1]:
        return None
    if dtype_of(value) == "float16":
        graph.missed("in float16 the unscaled product might overflow")
        return None
    if not _is_normal(factor, dtype_of(value)):
        graph.missed("the scales of its operands have no product in range")
        return None
    first, second = (_without_factor(arg, graph) for arg in value.args)
    product = relax.Call(value.op, [first, second], value.attrs, value.ty_args)
    graph.passed("the scales of its operands became one of its result")
    return relax.op.multiply(product, relax.const(factor, dtype_of(value)))


def merge_scales(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`((q @ k) * a) * b = (q @ k) * (a * b)` for scalars; one rounding less."""
    if not is_op(value, "relax.multiply") or dtype_of(value) not in _FLOATS:
        return None
    inner, outer_scale = graph.producer(value.args[0]), scalar_value(value.args[1])
    if not is_op(inner, "relax.multiply") or outer_scale is None or graph.uses(value.args[0]) != 1:
        return None
    inner_scale = scalar_value(inner.args[1])
    if inner_scale is None or not is_op(graph.producer(inner.args[0]), "relax.matmul"):
        return None
    scale = float(outer_scale) * float(inner_scale)
    if not _is_normal(scale, dtype_of(value)) or shape_of(inner.args[0]) != shape_of(value):
        return None
    graph.absorb(value.args[0])
    return relax.op.multiply(inner.args[0], relax.const(scale, dtype_of(value)))


def _factor(operand: relax.Expr, graph: Graph) -> float:
    """The product of the scalars that an operand, read by nobody else, is multiplied with."""
    factor = 1.0
    while graph.uses(operand) == 1:
        source = graph.producer(operand)
        if is_op(source, "relax.multiply") and _is_scaling(source):
            factor *= float(scalar_value(source.args[1]) or 0)
        elif not is_op(source, "relax.permute_dims", "relax.reshape"):
            break
        operand = source.args[0]
    return factor


def _without_factor(operand: relax.Expr, graph: Graph) -> relax.Expr:
    source = graph.producer(operand)
    if graph.uses(operand) != 1 or not isinstance(source, relax.Call):
        return operand
    if is_op(source, "relax.multiply") and _is_scaling(source):
        return _without_factor(source.args[0], graph)
    if not is_op(source, "relax.permute_dims", "relax.reshape"):
        return operand
    inner = _without_factor(source.args[0], graph)
    if inner is source.args[0]:
        return operand
    name = operand.name if isinstance(operand, relax.Var) else None
    args = [inner, *source.args[1:]]
    return graph.emit(relax.Call(source.op, args, source.attrs, source.ty_args), name)


def _is_scaling(product: relax.Call) -> bool:
    return scalar_value(product.args[1]) is not None and (
        shape_of(product.args[0]) == shape_of(product)
    )


def _is_normal(factor: float, dtype: str) -> bool:
    limits = np.finfo(dtype)
    return isfinite(factor) and float(limits.tiny) <= abs(factor) <= float(limits.max)
