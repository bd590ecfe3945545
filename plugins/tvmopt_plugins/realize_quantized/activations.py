"""Products of two dequantized tensors that are both computed at run time."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, shape_of
from tvmopt_plugins.realize_quantized.products import scaled_sum
from tvmopt_plugins.realize_quantized.quantized import Quantized, dequantized

_MIDDLE = 128


def multiply_activations(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """A batched product of uint8 with int8, which the right-hand side becomes; in int32.

    `sum((x - y) (w - z)) = sum(x (w - 128)) - y sum(w) - (z - 128) sum(x) + n y z`, for `n`
    products; the sums of one operand are kernels of their own.
    """
    if not is_op(value, "relax.matmul"):
        return None
    left, right = (_computed(one, graph) for one in value.args)
    shape = shape_of(value.args[0])
    if left is None or right is None or shape is None or len(shape) < 2:
        return None
    zero, other = int(left.zero_point), int(right.zero_point)
    top_bit = relax.const(_MIDDLE, "uint8")
    signed = relax.op.astype(relax.op.bitwise_xor(right.values, top_bit), "int8")
    total = relax.op.matmul(left.values, signed, out_dtype="int32")
    if zero:
        columns = relax.op.sum(relax.op.astype(right.values, "int32"), -2, keepdims=True)
        total = relax.op.subtract(total, relax.op.multiply(columns, relax.const(zero, "int32")))
    if other != _MIDDLE:
        rows = relax.op.sum(relax.op.astype(left.values, "int32"), -1, keepdims=True)
        factor = relax.const(other - _MIDDLE, "int32")
        total = relax.op.subtract(total, relax.op.multiply(rows, factor))
    offset = np.asarray(shape[-1] * zero * other, "int32")
    return scaled_sum(total, offset, np.asarray(left.scale * right.scale, "float32"))


def _computed(operand: relax.Expr, graph: Graph) -> Quantized | None:
    """An operand in uint8 that has one scale, two dimensions or more, and is no constant."""
    found = dequantized(operand, graph)
    if found is None or not found.is_per_tensor or dtype_of(found.values) != "uint8":
        return None
    shape = shape_of(operand)
    if shape is None or len(shape) < 2 or constant_value(found.values) is not None:
        return None
    return found
