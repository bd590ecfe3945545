"""Batch normalization in inference is a scale and a shift per channel."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op, shape_of

_FOLDS_INTO = ("conv", "matmul")


def decompose_batch_norm(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`batch_norm(x) = x * s + t`, `s = gamma / sqrt(var + eps)`, `t = beta - mean * s`.

    With constant statistics `s` and `t` are computed in float64 and rounded once, so that the
    result is as accurate as the operator's own formula: within 2 ulp of the larger term.
    """
    if not isinstance(value, relax.TupleGetItem):
        return None
    norm = graph.producer(value.tuple_value)
    if not is_op(norm, "relax.nn.batch_norm"):
        return None
    if value.index != 0:  # the running statistics, which inference leaves as they are
        return norm.args[value.index + 2] if not attrs_of(norm).training else None
    if attrs_of(norm).training:
        graph.missed("the batch normalization is in training mode: its statistics are computed")
        return None
    data = norm.args[0]
    shape = shape_of(data)
    if shape is None:
        return None
    source = getattr(getattr(graph.producer(data), "op", None), "name", "the model's input")
    if not (source.endswith("add") or any(word in source for word in _FOLDS_INTO)):
        graph.missed(f"no weight to fold it into: what it normalizes comes from {source}")
    axis = int(attrs_of(norm).axis) % len(shape)
    per_channel = tuple(size if at == axis else 1 for at, size in enumerate(shape))
    scale, shift = _scale_and_shift(norm, per_channel, graph)
    return relax.op.add(relax.op.multiply(data, scale), shift)


def _scale_and_shift(
    norm: relax.Call, shape: tuple[int, ...], graph: Graph
) -> tuple[relax.Expr, relax.Expr]:
    attrs = attrs_of(norm)
    dtype = dtype_of(norm.args[0])
    arrays = [constant_value(arg) for arg in norm.args[1:]]
    if any(array is None for array in arrays):
        graph.missed("its parameters are no constants: they are applied as they come")
        gamma, beta, mean, variance = norm.args[1:]
        scale = relax.op.rsqrt(relax.op.add(variance, relax.const(attrs.epsilon, dtype)))
        scale = graph.emit(relax.op.multiply(scale, gamma) if attrs.scale else scale)
        shift = relax.op.negative(relax.op.multiply(mean, scale))
        shift = relax.op.add(shift, beta) if attrs.center else shift
        return (
            graph.emit(relax.op.reshape(scale, shape)),
            graph.emit(relax.op.reshape(shift, shape)),
        )
    gamma, beta, mean, variance = (np.asarray(array, "float64") for array in arrays)
    factor: np.ndarray[Any, Any] = 1 / np.sqrt(variance + attrs.epsilon)
    factor = factor * gamma if attrs.scale else factor
    offset = (beta if attrs.center else 0) - mean * factor
    return (
        relax.const(factor.reshape(shape), dtype),
        relax.const(offset.reshape(shape), dtype),
    )
