"""Normalizations, with the outputs and axes that TVM's converters leave out."""

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, scalar


def layer_normalization(node: Node) -> Expr | Sequence[Expr]:
    """Layer norm over the axes from `axis` on; its mean and inverse deviation where they are used.

    The statistics are computed in float32 (`stash_type`).
    """
    x, dtype, shape = node[0], node.dtype(), node.shape()
    axis = node.attribute("axis", -1) % len(shape)
    axes = list(range(axis, len(shape)))
    inner = shape[axis:]
    gamma = _spread(node, 1, inner)
    bias = node.get(2)
    beta = constant(np.zeros(inner, dtype)) if bias is None else _spread(node, 2, inner)
    epsilon = node.attribute("epsilon", 1e-5)
    if not (node.uses_output(1) or node.uses_output(2)):
        return op.nn.layer_norm(x, gamma, beta, axes, epsilon)
    wide = x if dtype == "float32" else op.astype(x, "float32")
    mean = node.emit(op.mean(wide, axes, keepdims=True))
    centred = node.emit(op.subtract(wide, mean))
    variance = op.mean(op.multiply(centred, centred), axes, keepdims=True)
    deviation = op.sqrt(op.add(variance, scalar(epsilon, "float32")))
    inverse = node.emit(op.divide(scalar(1, "float32"), deviation))
    normal = op.multiply(centred, inverse)
    normal = normal if dtype == "float32" else op.astype(normal, dtype)
    return [op.add(op.multiply(normal, gamma), beta), mean, inverse]


def rms_normalization(node: Node) -> Expr:
    """`x / sqrt(mean(x^2) + epsilon) * scale` over the axes from `axis` on, in float32."""
    x, dtype, shape = node[0], node.dtype(), node.shape()
    axis = node.attribute("axis", -1) % len(shape)
    axes = list(range(axis, len(shape)))
    epsilon = node.attribute("epsilon", 1e-5)
    if dtype == "float32" and axis and node.shape(1) == shape[axis:]:  # TVM's needs an outer axis
        return op.nn.rms_norm(x, node[1], axes, epsilon)
    wide = x if dtype == "float32" else op.astype(x, "float32")
    square = op.mean(op.multiply(wide, wide), axes, keepdims=True)
    normal = op.divide(wide, op.sqrt(op.add(square, scalar(epsilon, "float32"))))
    normal = normal if dtype == "float32" else op.astype(normal, dtype)
    scaled = op.multiply(normal, _as(node, 1, dtype))
    return scaled if dtype == node.dtype(1) else op.astype(scaled, node.dtype(1))


def _spread(node: Node, index: int, shape: list[int]) -> Expr:
    """A scale or bias in the full shape of the normalized axes."""
    return node[index] if node.shape(index) == shape else op.broadcast_to(node[index], shape)


def batch_normalization(node: Node) -> Expr:
    """Batch norm with the moving statistics; in training mode it would use the batch's."""
    training = node.attribute("training_mode", 0) or (
        node.opset < 7 and not node.attribute("is_test", 0) and node.num_outputs > 1
    )
    if training:
        raise node.error("it is in training mode; export the model for inference")
    if not node.attribute("spatial", 1):
        raise node.error("statistics per element (spatial = 0) are not supported")
    epsilon = node.attribute("epsilon", 1e-5)
    dtype = node.dtype()
    gamma, beta, mean, variance = (_as(node, i, dtype) for i in range(1, 5))
    # Relax's own default is training mode.
    whole = node.emit(
        op.nn.batch_norm(node[0], gamma, beta, mean, variance, 1, epsilon, training=False)
    )
    return relax.TupleGetItem(node.builder.emit(whole), 0)


def _as(node: Node, index: int, dtype: str) -> Expr:
    return node[index] if node.dtype(index) == dtype else op.astype(node[index], dtype)


def lp_normalization(node: Node) -> Expr:
    """`x` over its 1- or 2-norm along an axis; a norm of 0 gives 0."""
    x, dtype = node[0], node.dtype()
    axis, p = node.attribute("axis", -1), node.attribute("p", 2)
    if p == 1:
        norm = op.sum(op.abs(x), [axis], keepdims=True)
    else:
        norm = op.sqrt(op.sum(op.multiply(x, x), [axis], keepdims=True))
    norm = node.emit(norm)
    zero = scalar(0, dtype)
    safe = op.where(op.equal(norm, zero), scalar(1, dtype), norm)
    return op.divide(x, safe)


def local_response_normalization(node: Node) -> Expr:
    """`x / (bias + alpha / size * sum of squares over nearby channels) ** beta`."""
    x, dtype, shape = node[0], node.dtype(), node.shape()
    size = node.attribute("size")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    width = [0, 0, before, after] + [0, 0] * (len(shape) - 2)
    squares = node.emit(op.nn.pad(op.multiply(x, x), width))
    total = op.strided_slice(squares, [1], [0], [shape[1]])
    for shift in range(1, size):
        total = op.add(total, op.strided_slice(squares, [1], [shift], [shift + shape[1]]))
    scaled = op.multiply(total, scalar(node.attribute("alpha", 1e-4) / size, dtype))
    base = op.add(scaled, scalar(node.attribute("bias", 1.0), dtype))
    return op.divide(x, op.power(base, scalar(node.attribute("beta", 0.75), dtype)))


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
}
