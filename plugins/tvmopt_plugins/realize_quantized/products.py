"""Convolutions and matrix products of two dequantized operands."""

import math
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant, is_op, shape_of
from tvmopt_plugins.realize_quantized.quantized import (
    Quantized,
    QuantizedConstant,
    dequantized,
    quantized_constant,
)

Array = np.ndarray[Any, Any]


def multiply_integers(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """Products summed in int32, about both zero points.

    `sum((x - z) (w - v)) = sum(x w) - v sum(x) - z (sum(w) - n v)`, for `n` products.
    """
    if is_op(value, "relax.nn.conv2d"):
        return _convolution(value, graph)
    if is_op(value, "relax.nn.conv2d_transpose"):
        return _transposed(value, graph)
    if is_op(value, "relax.matmul"):
        return _matmul(value, graph)
    return None


def note_floats(value: relax.Expr, graph: Graph) -> None:
    """Remarks that a product of a quantized weight is still one of floats."""
    if not is_op(value, "relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul"):
        return
    data, weight = value.args
    if dequantized(data, graph) is None and not isinstance(quantized_constant(weight, graph), str):
        graph.missed("computed in float32: only its weight is quantized")


def _convolution(value: relax.Call, graph: Graph) -> relax.Expr | None:
    operands = _operands(value, graph, channel=0)
    if operands is None:
        return None
    data, weight = operands
    attrs = attrs_of(value)
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "OIHW"):
        graph.missed(f"computed in float32: its layout is {attrs.data_layout}")
        return None
    image, padding = data.values, [int(p) for p in attrs.padding]
    zero, groups = int(data.zero_point), int(attrs.groups)
    if zero and any(padding):
        top, left, bottom, right = padding
        widths = [0, 0, 0, 0, top, bottom, left, right]
        image, padding = relax.op.nn.pad(image, widths, pad_value=zero), [0, 0, 0, 0]
    image = graph.emit(image)

    def convolve(kernel: Array) -> relax.Expr:
        return relax.op.nn.conv2d(
            image,
            constant(kernel),
            strides=[int(s) for s in attrs.strides],
            padding=padding,
            dilation=[int(d) for d in attrs.dilation],
            groups=groups,
            out_dtype="int32",
        )

    outputs, *window = weight.array.shape
    product = convolve(weight.array)
    if not weight.is_centred:
        sums = convolve(np.ones((groups, *window), "int8"))
        if groups > 1:
            sums = relax.op.repeat(sums, outputs // groups, axis=1)
        zeros = weight.zero.reshape((-1, 1, 1) if weight.zero.ndim else ())
        product = relax.op.subtract(product, relax.op.multiply(sums, constant(zeros)))
    sums = weight.array.sum((1, 2, 3), dtype="int32") - math.prod(window) * weight.zero
    return _scaled(product, data, weight, sums, (-1, 1, 1))


def _transposed(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """With the zero point taken from its input: other results meet other parts of the kernel."""
    operands = _operands(value, graph, channel=1)
    if operands is None:
        return None
    data, weight = operands
    attrs = attrs_of(value)
    layouts = str(attrs.data_layout), str(attrs.kernel_layout)
    why = ""
    if layouts != ("NCHW", "IOHW"):
        why = f"its layout is {attrs.data_layout}"
    elif any(int(d) != 1 for d in attrs.dilation):
        why = "it is dilated"
    elif not weight.is_centred:
        why = "its weight's zero point is not in the middle"
    if why:
        graph.missed(f"computed in float32: {why}")
        return None
    image = relax.op.astype(data.values, "int32")
    if data.zero_point:
        image = relax.op.subtract(image, constant(data.zero_point))
    groups = int(attrs.groups)
    product = relax.op.nn.conv2d_transpose(
        image,
        constant(weight.array),
        strides=[int(s) for s in attrs.strides],
        padding=[int(p) for p in attrs.padding],
        output_padding=[int(p) for p in attrs.output_padding],
        groups=groups,
        out_dtype="int32",
    )
    outputs = groups * weight.array.shape[1]
    scale = np.broadcast_to(np.tile(data.scale * weight.scale, groups), (outputs,))
    return scaled_sum(product, np.zeros((outputs, 1, 1), "int32"), scale.reshape(-1, 1, 1))


def _matmul(value: relax.Call, graph: Graph) -> relax.Expr | None:
    operands = _operands(value, graph, channel=-1)
    if operands is None:
        return None
    data, weight = operands
    if weight.array.ndim != 2:
        graph.missed("computed in float32: its weight is a batch of matrices")
        return None
    product = relax.op.matmul(data.values, constant(weight.array), out_dtype="int32")
    if not weight.is_centred:
        rows = relax.op.sum(relax.op.astype(data.values, "int32"), -1, keepdims=True)
        product = relax.op.subtract(product, relax.op.multiply(rows, constant(weight.zero)))
    sums = weight.array.sum(0, dtype="int32") - len(weight.array) * weight.zero
    return _scaled(product, data, weight, sums, (-1,))


def _operands(
    value: relax.Call, graph: Graph, channel: int
) -> tuple[Quantized, QuantizedConstant] | None:
    """Both operands, where integers can be multiplied; remarks why not where one is quantized."""
    data = dequantized(value.args[0], graph)
    if data is None:
        return None
    weight = quantized_constant(value.args[1], graph)
    why = ""
    if isinstance(weight, str):
        why = weight
    elif not data.is_per_tensor:
        why = "its input has a scale for each channel"
    elif str(data.values.ty.dtype) != "uint8":
        why = f"its input is stored in {data.values.ty.dtype}"
    elif weight.axis not in (None, channel % weight.array.ndim):
        why = "its weight's scales are not those of its results"
    elif shape_of(value) is None:
        why = "its shape is not static"
    if why or isinstance(weight, str):
        graph.missed(f"computed in float32: {why}")
        return None
    return data, weight


def _scaled(
    product: relax.Expr,
    data: Quantized,
    weight: QuantizedConstant,
    sums: Array,
    shape: tuple[int, ...],
) -> relax.Expr:
    """`(product - zero_point * sums) * scale`, with what is constant as constants of `shape`."""
    correction = np.asarray(-data.zero_point * sums, "int32")
    scale = np.broadcast_to(data.scale * weight.scale, sums.shape)
    return scaled_sum(product, correction.reshape(shape), scale.reshape(shape))


def scaled_sum(total: relax.Expr, offset: Array, scale: Array) -> relax.Expr:
    """`float(total + offset) * scale`, which `requantize` knows; both constants of one shape."""
    whole = relax.op.astype(relax.op.add(total, constant(offset)), "float32")
    return relax.op.multiply(whole, constant(scale))
