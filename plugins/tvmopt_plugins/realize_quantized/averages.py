"""Means of dequantized tensors: sums in int32, which one multiplication turns into means.

Interpolation, whose means are weighted, reads the integers and sums in float32.
"""

import math
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant, constant_value, is_op, shape_of
from tvmopt_plugins.realize_quantized.arithmetic import to_floats
from tvmopt_plugins.realize_quantized.products import scaled_sum
from tvmopt_plugins.realize_quantized.quantized import Quantized, dequantized

Array = np.ndarray[Any, Any]

_MEANS = ("relax.mean", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d")
_MOST_ELEMENTS = 2**23
"""Of so many 8-bit integers the sum fits in int32."""


def average_integers(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`mean((x - z) s) = (sum(x) - n z) s / n`, summed in int32."""
    if is_op(value, "relax.image.resize2d"):
        return _resize(value, graph)
    if not is_op(value, *_MEANS):
        return None
    data = dequantized(value.args[0], graph)
    shape, result = shape_of(value.args[0]), shape_of(value)
    if data is None or constant_value(data.values) is not None:
        return None
    if shape is None or result is None or not data.is_per_tensor:
        graph.missed("computed in float32: its scale or its shape is not one")
        return None
    if is_op(value, "relax.nn.avg_pool2d"):
        return _pool(value, data, shape, result, graph)
    if is_op(value, "relax.nn.adaptive_avg_pool2d"):
        if str(attrs_of(value).layout) != "NCHW" or result[2:] != (1, 1):
            graph.missed("computed in float32: its windows are of different sizes")
            return None
        return _mean(data, [2, 3], shape, keepdims=True, graph=graph)
    attrs = attrs_of(value)
    axes = range(len(shape)) if attrs.axis is None else (int(a) % len(shape) for a in attrs.axis)
    return _mean(data, list(axes), shape, keepdims=bool(attrs.keepdims), graph=graph)


def _resize(value: relax.Call, graph: Graph) -> relax.Expr | None:
    """`resize((x - z) s) = (resize(x) - z) s`, for weights whose sum is 1."""
    data, attrs = dequantized(value.args[0], graph), attrs_of(value)
    if data is None or not data.is_per_tensor or constant_value(data.values) is not None:
        return None
    if str(attrs.coordinate_transformation_mode) == "tf_crop_and_resize":
        graph.missed("computed in float32: what it takes from outside the image is no mean")
        return None
    resized = relax.op.image.resize2d(
        data.values,
        value.args[1],
        roi=[float(r) for r in attrs.roi],
        layout=str(attrs.layout),
        method=str(attrs.method),
        coordinate_transformation_mode=str(attrs.coordinate_transformation_mode),
        rounding_method=str(attrs.rounding_method),
        cubic_alpha=float(attrs.cubic_alpha),
        cubic_exclude=int(attrs.cubic_exclude),
        extrapolation_value=float(attrs.extrapolation_value),
        out_dtype="float32",
    )
    return to_floats(resized, data.zero_point, data.scale)


def _mean(
    data: Quantized, axes: list[int], shape: tuple[int, ...], *, keepdims: bool, graph: Graph
) -> relax.Expr | None:
    count = math.prod(shape[axis] for axis in axes)
    if not 0 < count < _MOST_ELEMENTS:
        graph.missed(f"computed in float32: it is the mean of {count} elements")
        return None
    total = relax.op.sum(relax.op.astype(data.values, "int32"), axes, keepdims)
    return _divided(total, data, count, np.asarray(count))


def _pool(
    value: relax.Call,
    data: Quantized,
    shape: tuple[int, ...],
    result: tuple[int, ...],
    graph: Graph,
) -> relax.Expr | None:
    """Sums over windows are a convolution of each channel with ones."""
    attrs = attrs_of(value)
    if str(attrs.layout) != "NCHW" or bool(attrs.ceil_mode):
        graph.missed("computed in float32: its layout is not NCHW, or it rounds up its size")
        return None
    kernel, strides, dilation, padding = (
        [int(n) for n in numbers]
        for numbers in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
    )
    image = data.values
    top, left, bottom, right = padding
    if any(padding):
        widths = [0, 0, 0, 0, top, bottom, left, right]
        image = relax.op.nn.pad(image, widths, pad_value=int(data.zero_point))
    total = relax.op.nn.conv2d(
        image,
        constant(np.ones((shape[1], 1, *kernel), "int8")),
        strides=strides,
        dilation=dilation,
        groups=shape[1],
        out_dtype="int32",
    )
    counts = np.asarray(math.prod(kernel))
    if any(padding) and not attrs.count_include_pad:
        inside = [
            _inside(shape[2 + i], result[2 + i], kernel[i], strides[i], dilation[i], padding[i])
            for i in (0, 1)
        ]
        counts = np.multiply.outer(*inside)
    return _divided(total, data, math.prod(kernel), counts)


def _inside(size: int, count: int, kernel: int, stride: int, dilation: int, before: int) -> Array:
    """How many places of each window along an axis are data."""
    places = np.arange(count)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.maximum(((places >= 0) & (places < size)).sum(1), 1)


def _divided(total: relax.Expr, data: Quantized, summed: int, counts: Array) -> relax.Expr:
    """The means of sums of `summed` integers, `counts` of which count."""
    offset = np.full(counts.shape, -int(data.zero_point) * summed, "int32")
    return scaled_sum(total, offset, (data.scale / counts.astype("float32")).astype("float32"))
