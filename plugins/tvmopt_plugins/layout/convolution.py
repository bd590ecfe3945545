"""Convolutions on blocked channels, with weights packed ahead of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import Any

import numpy as np
from tvm import relax, te

from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    shape_of,
    stored_form,
)
from tvmopt_plugins.layout.blocked import ANCHOR, Images
from tvmopt_schedules.cpu.code.dots import PAIRS, Dot, integer_weights
from tvmopt_schedules.cpu.code.pairs import bfloat16_of, pack_pairs, pair_planes
from tvmopt_schedules.cpu.code.quads import SIZE, quad_planes
from tvmopt_schedules.cpu.compute.channel_blocks import blocks_of
from tvmopt_schedules.cpu.compute.conv2d import conv2d_nchwc, pack_factor
from tvmopt_schedules.cpu.compute.window import Window, depthwise_nchwc, sum_pool_nchwc

Array = np.ndarray[Any, Any]

_FLOAT = ("float32", "float32", "float32")
_INTEGERS = ("uint8", "int8", "int32")


@dataclass(frozen=True)
class Convolution:
    """A convolution with constant weights, `[O, I / groups, KH, KW]`.

    `stored` is the type that a pass rounded the weights to, and in bfloat16 the image, too; `int8`
    where a uint8 image is multiplied with int8 weights.
    """

    data: relax.Expr
    weight: Array
    window: Window
    groups: int
    stored: str = "float32"


def convolve(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.nn.conv2d` becomes a blocked kernel, whose bias and activation can join it."""
    if not is_op(value, "relax.nn.conv2d"):
        return None
    conv = read_convolution(value, graph)
    if isinstance(conv, Convolution) and conv.stored == "int8":
        conv = _with_padding(conv, graph, images)
    if isinstance(conv, str):
        graph.missed(f"left in the plain layout: {conv}")
        return None
    return images.leave(graph, emit_convolution(conv, graph, images), len(conv.weight))


def read_convolution(value: relax.Call, graph: Graph) -> Convolution | str:
    """The convolution, or why it cannot be blocked."""
    attrs = attrs_of(value)
    data, weight = value.args
    shape = shape_of(data)
    array, stored = weight_of(weight, graph)
    if shape is None:
        return "its shape is not static"
    if array is None:
        return "its weight is computed at run time"
    types = dtype_of(data), str(array.dtype), dtype_of(value)
    if types not in (_FLOAT, _INTEGERS):
        return f"{types[0]} x {types[1]} is neither float32 nor uint8 x int8"
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "OIHW"):
        return f"its layout is {attrs.data_layout}, {attrs.kernel_layout}"
    if 0 in (*shape, *array.shape, *(shape_of(value) or ())):
        return "it is empty"
    height, width = (int(k) for k in array.shape[2:])
    top, left, bottom, right = (int(p) for p in attrs.padding)
    window = Window(
        (height, width),
        (int(attrs.strides[0]), int(attrs.strides[1])),
        (top, left, bottom, right),
        (int(attrs.dilation[0]), int(attrs.dilation[1])),
    )
    if min(window.padding) < 0:
        return "its padding is negative"
    conv = Convolution(data, array, window, int(attrs.groups), stored)
    return replace(conv, stored="int8") if types == _INTEGERS else conv


def _with_padding(conv: Convolution, graph: Graph, images: Images) -> Convolution:
    """The convolution with the padding that its image got, by a number that stands for zero."""
    pad = images.pad_of(graph, conv.data)
    if not is_op(pad, "relax.nn.pad") or any(conv.window.padding):
        return conv
    attrs = attrs_of(pad)
    widths = [int(width) for width in attrs.pad_width]
    if str(attrs.pad_mode) != "constant" or any(widths[:4]) or min(widths) < 0:
        return conv
    top, bottom, left, right = widths[4:]
    window = replace(conv.window, padding=(top, left, bottom, right), fill=int(attrs.pad_value))
    return replace(conv, data=pad.args[0], window=window)


def weight_of(weight: relax.Expr, graph: Graph) -> tuple[Array | None, str]:
    """The constant, rounded where a pass had it so, and the type that it was rounded to."""
    narrow = stored_form(weight, graph)
    if narrow is None:
        return constant_value(weight), "float32"
    rounding = graph.producer(narrow)
    array = constant_value(rounding.args[0]) if is_op(rounding, "relax.astype") else None
    if array is None:
        return None, dtype_of(narrow)
    if dtype_of(narrow) == "bfloat16":
        return bfloat16_of(array), "bfloat16"
    return array.astype("float16").astype("float32"), "float16"


def emit_convolution(conv: Convolution, graph: Graph, images: Images) -> relax.Expr:
    """A call of the kernel for `conv`; its result is blocked."""
    out_channels = len(conv.weight)
    in_channels = conv.weight.shape[1] * conv.groups
    if conv.groups == in_channels == out_channels and conv.groups > 1:
        return emit_depthwise(conv, graph, images)
    conv = merge_groups(conv, graph, images.block)
    if conv.stored == "int8":
        return _emit_quads(conv, graph, images)
    if conv.stored == "bfloat16":
        paired = _emit_paired(conv, graph, images)
        if paired is not None:
            return paired
    image = images.find(graph, conv.data)
    if image is None and conv.groups == 1 and in_channels < images.block:
        # Too few channels for a block: the kernel reads a plain image just as well, and pads it:
        # MobileNetV3-small as a whole takes 5 % less time than with a kernel for the padding.
        factor = 1
        data = conv.data
    else:
        data = (image or images.enter(graph, conv.data)).var
        factor = pack_factor(conv.weight.shape[1], images.block)
    dtype = "float16" if conv.stored == "float16" else "float32"
    packed = pack_weight(conv.weight, images.block, factor).astype(dtype)
    return _call(conv, data, [constant(packed)], conv.window, in_channels, graph)


def _call(
    conv: Convolution,
    data: relax.Expr,
    constants: Sequence[relax.Expr],
    window: Window,
    in_channels: int,
    graph: Graph,
    dot: Dot | None = None,
) -> relax.Expr:
    """The kernel; `constants` are the packed weights, and what comes with them."""

    def definition(data: te.Tensor, weight: te.Tensor, *others: te.Tensor) -> te.Tensor:
        return conv2d_nchwc(data, weight, window, in_channels, conv.groups, dot, *others)

    return graph.bb.call_te(
        definition,
        data,
        *constants,
        primfunc_name_hint="conv2d",
        primfunc_attrs=ANCHOR,
    )


def emit_depthwise(conv: Convolution, graph: Graph, images: Images) -> relax.Expr:
    """A call of the depthwise kernel, with several results for a channel where weights are more."""
    widened = "int32" if conv.stored == "int8" else "float32"
    if conv.stored == "int8" and (conv.weight == 1).all():
        return graph.bb.call_te(
            partial(sum_pool_nchwc, window=conv.window, dtype=widened),
            images.enter(graph, conv.data).var,
            primfunc_name_hint="sum_pool2d",
            primfunc_attrs=ANCHOR,
        )
    return graph.bb.call_te(
        partial(depthwise_nchwc, window=conv.window),
        images.enter(graph, conv.data).var,
        relax.const(pack_depthwise(conv.weight, images.block).astype(widened), widened),
        primfunc_name_hint="depthwise_conv2d",
        primfunc_attrs=ANCHOR,
    )


def _emit_paired(conv: Convolution, graph: Graph, images: Images) -> relax.Expr | None:
    """The kernel that multiplies pairs of channels in bfloat16; None where it cannot."""
    group_in = conv.weight.shape[1]
    in_channels = group_in * conv.groups
    image, window = images.find(graph, conv.data), conv.window
    narrow = stored_form(conv.data if image is None else image.var, graph)
    if narrow is None:
        graph.missed("multiplies float32: its image is not in bfloat16")
        return None
    weight = conv.weight
    if image is not None:
        data = narrow
    elif conv.groups == 1 and in_channels < images.block:
        # Too few channels for a block: the kernel reads pairs of planes just as well.
        padded, window = _pad_plain(replace(conv, data=narrow), graph)
        planes = graph.bb.call_te(pair_planes, padded, primfunc_name_hint="pair_planes")
        data = graph.emit(planes)
        group_in = in_channels + in_channels % 2
        weight = np.pad(weight, ((0, 0), (0, group_in - in_channels), (0, 0), (0, 0)))
        in_channels = group_in
    else:
        data = images.enter(graph, narrow).var
    if group_in % 2:
        graph.missed(f"multiplies float32: {group_in} input channels of a group are no pairs")
        return None
    factor = pack_factor(group_in, images.block)
    packed = pack_pairs(pack_weight(weight, images.block, factor), 4)
    return _call(conv, data, [constant(packed)], window, in_channels, graph, PAIRS)


def _emit_quads(conv: Convolution, graph: Graph, images: Images) -> relax.Expr:
    """The kernel that multiplies four channels of 8-bit integers at once."""
    group_in = conv.weight.shape[1]
    if conv.groups > 1 and group_in % SIZE:
        conv = _ungrouped(conv, graph)
        group_in = conv.weight.shape[1]
    image, window = images.find(graph, conv.data), conv.window
    if image is None and conv.groups == 1 and group_in < images.block:
        # Too few channels for a block: the kernel reads quads of planes just as well.
        padded, window = _pad_plain(conv, graph)
        planes = graph.bb.call_te(quad_planes, padded, primfunc_name_hint="quad_planes")
        data, factor = graph.emit(planes), SIZE
    else:
        data = (image or images.enter(graph, conv.data)).var
        factor = pack_factor(group_in + -group_in % SIZE, images.block)
    # What the image's last block holds beyond its channels meets zeros.
    weight = np.pad(conv.weight, ((0, 0), (0, -group_in % SIZE), (0, 0), (0, 0)))
    packed = pack_weight(weight, images.block, factor)
    weights = integer_weights(packed, images.machine)
    in_channels = weight.shape[1] * conv.groups
    constants = [constant(array) for array in weights.constants]
    return _call(conv, data, constants, window, in_channels, graph, weights.dot)


def _ungrouped(conv: Convolution, graph: Graph) -> Convolution:
    """All groups computed together, with zeros between them."""
    graph.passed(
        f"groups of {conv.weight.shape[1]} input channels are no quads: all are computed together"
    )
    return _merged(conv, conv.groups)


def _pad_plain(conv: Convolution, graph: Graph) -> tuple[relax.Expr, Window]:
    """The plain image with its padding, and the window on it."""
    if not any(conv.window.padding):
        return conv.data, conv.window
    top, left, bottom, right = conv.window.padding
    widths = [0, 0, 0, 0, top, bottom, left, right]
    padded = graph.emit(relax.op.nn.pad(conv.data, widths, pad_value=conv.window.fill))
    return padded, replace(conv.window, padding=(0, 0, 0, 0), fill=0)


def pack_weight(weight: Array, block: int, factor: int) -> Array:
    """`[O, I, KH, KW]` as `[ceil(O / b), I / f, KH, KW, f, b]`, with zeros beyond `O`."""
    out_channels, in_channels, height, width = weight.shape
    blocks = blocks_of(out_channels, block)
    padded = np.pad(weight, ((0, blocks * block - out_channels), (0, 0), (0, 0), (0, 0)))
    split = padded.reshape(blocks, block, in_channels // factor, factor, height, width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def pack_depthwise(weight: Array, block: int) -> Array:
    """`[C, 1, KH, KW]` as `[ceil(C / b), KH, KW, b]`, with zeros beyond `C`."""
    channels, _, height, width = weight.shape
    blocks = blocks_of(channels, block)
    padded = np.pad(weight, ((0, blocks * block - channels), (0, 0), (0, 0), (0, 0)))
    return np.ascontiguousarray(padded.reshape(blocks, block, height, width).transpose(0, 2, 3, 1))


def merge_groups(conv: Convolution, graph: Graph, block: int) -> Convolution:
    """Groups that do not fill blocks of output channels are computed together.

    The weights between different groups are zeros: exact, but more work than the groups alone.
    """
    out_group = len(conv.weight) // conv.groups
    if conv.groups == 1 or out_group % block == 0:
        return conv
    together = block // gcd(out_group, block)
    if conv.groups % together:
        together = conv.groups
    graph.passed(
        f"groups of {out_group} channels do not fill blocks of {block}: "
        f"{together} are computed together, with zeros between them"
    )
    return _merged(conv, together)


def _merged(conv: Convolution, together: int) -> Convolution:
    """The convolution with so many groups in one, and zeros between them."""
    out_group, in_group = len(conv.weight) // conv.groups, conv.weight.shape[1]
    shape = (len(conv.weight), in_group * together, *conv.weight.shape[2:])
    wide = np.zeros(shape, conv.weight.dtype)
    for group in range(conv.groups):
        rows = slice(group * out_group, (group + 1) * out_group)
        at = group % together * in_group
        wide[rows, at : at + in_group] = conv.weight[rows]
    return replace(conv, weight=wide, groups=conv.groups // together)
