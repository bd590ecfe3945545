"""Transposed convolutions on blocked channels: ordinary ones, whose results are interleaved."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tvmopt.rewriting import Graph, attrs_of, dtype_of, is_op, scalar_value, shape_of
from tvmopt_plugins.layout.blocked import Images
from tvmopt_plugins.layout.convolution import (
    Array,
    Convolution,
    emit_convolution,
    emit_depthwise,
    merge_groups,
    weight_of,
)
from tvmopt_schedules.cpu.compute.channel_blocks import blocks_of
from tvmopt_schedules.cpu.compute.window import Window


def convolve_transposed(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.nn.conv2d_transpose` becomes one convolution whose results are interleaved.

    With stride `s`, the results at rows `y` with the same `r = (y + pad) mod s` are an ordinary
    convolution with the rows `r, r + s, ...` of the kernel. The `s * s` of them are computed as
    channels of one convolution (kernels padded with zeros to the same size).
    """
    if not is_op(value, "relax.nn.conv2d_transpose"):
        return None
    attrs = attrs_of(value)
    data, weight = value.args
    shape, result = shape_of(data), shape_of(value)
    array, stored = weight_of(weight, graph)
    integers = _about_zero(data, graph, images) if dtype_of(value) == "int32" else None
    why = None
    if shape is None or result is None:
        why = "its shape is not static"
    elif array is None:
        why = "its weight is computed at run time"
    elif integers is None and {dtype_of(data), str(array.dtype), dtype_of(value)} != {"float32"}:
        why = "it is no product of float32, nor of uint8 about a zero point"
    elif (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "IOHW"):
        why = f"its layout is {attrs.data_layout}, {attrs.kernel_layout}"
    elif any(int(d) != 1 for d in attrs.dilation):
        why = "a dilated transposed convolution has no blocked form"
    elif 0 in (*shape, *result, *array.shape) or any(int(p) < 0 for p in attrs.padding):
        why = "it is empty or has a negative padding"
    if why is not None or shape is None or result is None or array is None:
        graph.missed(f"left in the plain layout: {why}")
        return None
    strides = int(attrs.strides[0]), int(attrs.strides[1])
    begin = int(attrs.padding[0]), int(attrs.padding[1])
    groups = int(attrs.groups)
    phases = _phases(array, strides, groups)
    kernel = phases.shape[3], phases.shape[4]
    reach = [(result[2 + i] - 1 + begin[i]) // strides[i] + 1 for i in (0, 1)]
    window = Window(
        kernel,
        padding=(
            kernel[0] - 1,
            kernel[1] - 1,
            max(0, reach[0] - shape[2]),
            max(0, reach[1] - shape[3]),
        ),
    )
    if integers is not None:
        data, zero = integers
        window, stored = replace(window, fill=zero), "int8"
    if groups == len(array) == result[1] and groups > 1:
        stacked = Convolution(data, _stack(phases, 1, images.block), window, groups, stored)
        woven, groups = emit_depthwise(stacked, graph, images), 1
    else:
        merged = [
            merge_groups(Convolution(data, one, window, groups), graph, images.block)
            for one in phases
        ]
        groups = merged[0].groups
        weights = _stack(np.stack([one.weight for one in merged]), groups, images.block)
        stacked = Convolution(data, weights, window, groups, stored)
        woven = emit_convolution(stacked, graph, images)
    if integers is not None and window.fill:
        sums = -window.fill * stacked.weight.sum((1, 2, 3), dtype="int32")
        woven = relax.op.add(woven, images.constant(sums.reshape(1, -1, 1, 1)))
    call = graph.bb.call_te(
        partial(
            _interleave, strides=strides, begin=begin, size=(result[2], result[3]), groups=groups
        ),
        graph.emit(woven),
        primfunc_name_hint="interleave",
    )
    return images.leave(graph, call, result[1])


def _about_zero(data: relax.Expr, graph: Graph, images: Images) -> tuple[relax.Expr, int] | None:
    """The uint8 image that an int32 one is, and the number that was taken from it."""
    image = images.find(graph, data)
    value, zero = graph.producer(data if image is None else image.var), 0
    if is_op(value, "relax.subtract"):
        zero = scalar_value(value.args[1])
        value = graph.producer(value.args[0])
    if zero is None or not is_op(value, "relax.astype") or dtype_of(value.args[0]) != "uint8":
        return None
    source = value.args[0]
    return (source if image is None else images.leave(graph, source, image.channels)), int(zero)


def _phases(weight: Array, strides: tuple[int, int], groups: int) -> Array:
    """`[I, O / g, KH, KW]` as `[s * s, O, I / g, ceil(KH / s), ceil(KW / s)]`."""
    in_channels, out_group, *kernel = weight.shape
    steps = [blocks_of(k, s) for k, s in zip(kernel, strides, strict=True)]
    pads = [(0, n * s - k) for k, s, n in zip(kernel, strides, steps, strict=True)]
    padded = np.pad(weight, ((0, 0), (0, 0), *pads))
    in_group = in_channels // groups
    split = padded.reshape(groups, in_group, out_group, steps[0], strides[0], steps[1], strides[1])
    # Input `q - j` meets kernel row `r + s * j`: a convolution's window runs the other way.
    kernels = split.transpose(4, 6, 0, 2, 1, 3, 5)[..., ::-1, ::-1]
    return kernels.reshape(strides[0] * strides[1], groups * out_group, in_group, *steps)


def _stack(phases: Array, groups: int, block: int) -> Array:
    """`[s * s, O, ...]` as `[g * s * s * ceil(O / g / b) * b, ...]`: phases inside each group."""
    count, channels = phases.shape[:2]
    each = channels // groups
    split = phases.reshape(count, groups, each, *phases.shape[2:])
    rest = blocks_of(each, block) * block - each
    filled = np.pad(split, ((0, 0), (0, 0), (0, rest), (0, 0), (0, 0), (0, 0)))
    return np.ascontiguousarray(
        filled.swapaxes(0, 1).reshape(groups * count * (each + rest), *phases.shape[2:])
    )


def _interleave(
    stacked: te.Tensor,
    strides: tuple[int, int],
    begin: tuple[int, int],
    size: tuple[int, int],
    groups: int,
) -> te.Tensor:
    batch, blocks, _, _, block = (int(dim) for dim in stacked.shape)
    phases = strides[0] * strides[1]
    each = blocks // (phases * groups)

    def read(n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr, b: tirx.Expr) -> Any:
        down, right = y + begin[0], x + begin[1]
        phase = tirx.floormod(down, strides[0]) * strides[1] + tirx.floormod(right, strides[1])
        row, column = tirx.floordiv(down, strides[0]), tirx.floordiv(right, strides[1])
        place = phase * each + c
        if groups > 1:
            group = tirx.floordiv(c, each)
            place = (group * phases + phase) * each + tirx.floormod(c, each)
        return stacked[n, place, row, column, b]

    woven: Any = te.compute((batch, groups * each, *size, block), read, name="interleave")
    return woven
