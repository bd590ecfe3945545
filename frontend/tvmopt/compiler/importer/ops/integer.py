"""Products of 8-bit integers, exact: kernels see the operands as they are stored.

The zero points are taken out of the sum:

    sum_k (a_ik - za_i) (b_kj - zb_j)
        = sum_k a_ik b_kj - za_i sum_k b_kj - zb_j (sum_k a_ik - K za_i)
"""

import math

import numpy as np
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, dtype_of, scalar, shape_of
from tvmopt.compiler.importer.ops.convolution import CONVOLUTIONS, LAYOUTS, spatial_rank
from tvmopt.compiler.importer.ops.windows import pads

_INT8 = np.iinfo(np.int8)


def matmul_integer(node: Node) -> Expr:
    """A product with int32 sums; a 1-D zero point is one per row of `A` or column of `B`."""
    a, b = node[0], node[1]
    za, zb = _zero_point(node, 2), _zero_point(node, 3)
    if isinstance(b, GenericConst):
        b, zb = _centred(b, zb)
    if za is not None and len(shape_of(za)) == 1:
        za = node.emit(op.reshape(za, [*shape_of(za), 1]))
    result = op.matmul(a, b, out_dtype="int32")
    rank_a, rank_b = len(node.shape(0)), len(node.shape(1))
    columns = _sum(node, b, -2 if rank_b > 1 else -1, keepdims=rank_b > 1 and rank_a > 1)
    if za is not None:
        result = op.subtract(result, op.multiply(za, columns))
    if zb is None:
        return result
    rows = _sum(node, a, -1, keepdims=rank_a > 1 and rank_b > 1)
    if za is not None:
        rows = node.emit(op.subtract(rows, op.multiply(za, scalar(node.shape()[-1], "int32"))))
    return op.subtract(result, op.multiply(zb, rows))


def _centred(b: GenericConst, zb: Expr | None) -> tuple[Expr, Expr | None]:
    """A weight as int8: without its zero point where the differences fit, else both moved."""
    if zb is not None and not isinstance(zb, GenericConst):
        return b, zb
    array = b.value.numpy().astype(np.int32)
    zeros = np.zeros((), np.int32) if zb is None else zb.value.numpy()
    steps = array - zeros
    if steps.min(initial=0) >= _INT8.min and steps.max(initial=0) <= _INT8.max:
        return constant(steps.astype(np.int8)), None
    if dtype_of(b) == "int8":
        return b, zb
    return constant((array - 128).astype(np.int8)), constant(zeros - 128)


def convolution_integer(node: Node) -> Expr:
    """A convolution with int32 sums; padding has the value of `x`'s zero point, which counts 0."""
    rank = spatial_rank(node)
    kernel = node.shape(1)[2:]
    strides = list(node.attribute("strides", [1] * rank))
    dilations = list(node.attribute("dilations", [1] * rank))
    groups = node.attribute("group", 1)
    zx, zw = _zero_point(node, 2), _zero_point(node, 3)
    padding = pads(node, node.shape()[2:], kernel, strides, dilations)
    x = _padded(node, zx, padding)

    def convolve(weight: Expr) -> Expr:
        return CONVOLUTIONS[rank](
            x,
            weight,
            strides=strides,
            dilation=dilations,
            groups=groups,
            data_layout=LAYOUTS[rank],
            kernel_layout="OI" + LAYOUTS[rank][2:],
            out_dtype="int32",
        )

    result = convolve(node[1])
    outputs = node.shape(1)[0]
    per_channel = [1, outputs, *[1] * rank]
    if zx is not None:
        kernels = _sum(node, node[1], list(range(1, rank + 2)), keepdims=False)
        result = op.subtract(result, op.multiply(zx, op.reshape(kernels, per_channel)))
    if zw is None:
        return result
    ones = np.ones([groups, *node.shape(1)[1:]], node.dtype(1))
    windows = convolve(constant(ones))
    if zx is not None:
        windows = op.subtract(windows, op.multiply(zx, scalar(ones[0].size, "int32")))
    if groups > 1:
        windows = op.repeat(windows, outputs // groups, axis=1)
    if math.prod(shape_of(zw)) > 1:
        zw = op.reshape(zw, per_channel)
    return op.subtract(result, op.multiply(zw, windows))


def _padded(node: Node, zero_point: Expr | None, padding: list[int]) -> Expr:
    """The input with its padding, whose value may be known at run time only."""
    x, rank = node[0], len(padding) // 2
    if not any(padding):
        return x
    width = [0, 0, 0, 0]
    for axis in range(rank):
        width += [padding[axis], padding[axis + rank]]
    if zero_point is None:
        return op.nn.pad(x, width)
    if isinstance(zero_point, GenericConst):
        return op.nn.pad(x, width, pad_value=int(zero_point.value.numpy().item()))
    spatial = np.ones([1, 1, *node.shape()[2:]], bool)
    pairs = list(zip(width[::2], width[1::2], strict=True))
    inside = constant(np.pad(spatial, pairs))
    return op.where(inside, op.nn.pad(x, width), op.astype(zero_point, node.dtype()))


def _zero_point(node: Node, index: int) -> Expr | None:
    """A zero point in int32, singletons as scalars; None where it is left out or known to be 0."""
    value = node.get(index)
    if value is None:
        return None
    single = math.prod(shape_of(value)) == 1
    if isinstance(value, GenericConst):
        array = value.value.numpy().astype(np.int32)
        return constant(array.reshape(()) if single else array) if array.any() else None
    value = op.astype(value, "int32")
    return node.emit(op.reshape(value, []) if single else value)


def _sum(node: Node, value: Expr, axis: int | list[int], *, keepdims: bool) -> Expr:
    """The sum of 8-bit integers in int32."""
    if isinstance(value, GenericConst):
        axes = axis if isinstance(axis, int) else tuple(axis)
        total = value.value.numpy().sum(axes, np.int32, keepdims=keepdims)
        return constant(np.asarray(total, np.int32))
    assert dtype_of(value) in ("int8", "uint8")
    return node.emit(op.sum(op.astype(value, "int32"), axis, keepdims=keepdims))


CONVERTERS: dict[str, Converter] = {
    "ConvInteger": convolution_integer,
    "MatMulInteger": matmul_integer,
}
