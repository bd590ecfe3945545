"""Convolutions over one and over three dimensions as convolutions over two."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, is_op, shape_of
from tvmopt_plugins.layout.blocked import Images

R: Any = relax.op


def convolve_volume(value: relax.Expr, graph: Graph, _images: Images) -> relax.Expr | None:
    """`relax.nn.conv3d` becomes one `conv2d`: planes are images, the kernel's depth is channels.

    Result plane `d` is a convolution over the `KD` planes that it sees, side by side as channels:
    `[N, C, D, H, W]` is read as `[N * OD, KD * C, H, W]`. The copy holds each element `KD` times,
    of which each is multiplied `O * KH * KW` times.
    """
    if not is_op(value, "relax.nn.conv3d"):
        return None
    attrs = attrs_of(value)
    shape, result, weight = shape_of(value.args[0]), shape_of(value), constant_value(value.args[1])
    why = None
    if shape is None or result is None:
        why = "its shape is not static"
    elif weight is None:
        why = "its weight is computed at run time"
    elif (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCDHW", "OIDHW"):
        why = f"its layout is {attrs.data_layout}, {attrs.kernel_layout}"
    elif 0 in (*shape, *result, *weight.shape) or any(int(p) < 0 for p in attrs.padding):
        why = "it is empty or has a negative padding"
    if why is not None or shape is None or result is None or weight is None:
        graph.missed(f"stays as it is: {why}")
        return None
    groups = int(attrs.groups)
    out_channels, in_group, depth = weight.shape[:3]
    front, top, left, back, bottom, right = (int(p) for p in attrs.padding)
    planes = R.permute_dims(value.args[0], [0, 2, 1, 3, 4])
    if front or back:
        planes = R.nn.pad(planes, [0, 0, front, back, *[0] * 6])
    planes = graph.emit(planes)
    batch, _, size, *_ = result
    stride, dilation = int(attrs.strides[0]), int(attrs.dilation[0])
    parts = []
    for step in range(depth):
        begin = step * dilation
        end = begin + (size - 1) * stride + 1
        part = graph.emit(R.strided_slice(planes, [1], [begin], [end], [stride]))
        parts.append(R.reshape(part, (batch * size, groups, in_group, *shape[3:])))
    stacked = parts[0] if depth == 1 else R.concat([graph.emit(part) for part in parts], axis=2)
    flat = R.nn.conv2d(
        R.reshape(graph.emit(stacked), (batch * size, groups * depth * in_group, *shape[3:])),
        relax.const(_flat(weight), str(weight.dtype)),
        strides=[int(s) for s in attrs.strides[1:]],
        padding=(top, left, bottom, right),
        dilation=[int(d) for d in attrs.dilation[1:]],
        groups=groups,
        out_dtype=attrs.out_dtype,
    )
    graph.passed(f"a convolution over three dimensions became one over two, {depth} planes deep")
    apart = R.reshape(graph.emit(flat), (batch, size, out_channels, *result[3:]))
    return R.permute_dims(apart, [0, 2, 1, 3, 4])


def _flat(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`[O, I, KD, KH, KW]` as `[O, KD * I, KH, KW]`."""
    out_channels, in_channels, depth, *kernel = weight.shape
    moved = weight.transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(moved).reshape(out_channels, depth * in_channels, *kernel)


def transposed_in_two_dimensions(
    value: relax.Expr, graph: Graph, _images: Images
) -> relax.Expr | None:
    """`relax.nn.conv1d_transpose` becomes a `conv2d_transpose` of height 1; exact."""
    if not is_op(value, "relax.nn.conv1d_transpose"):
        return None
    attrs = attrs_of(value)
    data, result = shape_of(value.args[0]), shape_of(value)
    weight = constant_value(value.args[1])
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCW", "IOW"):
        graph.missed(f"its layouts are {attrs.data_layout} and {attrs.kernel_layout}")
        return None
    if data is None or result is None or weight is None:
        graph.missed("stays as it is: its shape or its weight is not known at compile time")
        return None
    before, after = (int(n) for n in attrs.padding)
    flat = R.nn.conv2d_transpose(
        R.reshape(value.args[0], (*data[:2], 1, data[2])),
        relax.const(weight.reshape(*weight.shape[:2], 1, weight.shape[2]), str(weight.dtype)),
        strides=(1, int(attrs.strides[0])),
        padding=(0, before, 0, after),
        output_padding=(0, int(attrs.output_padding[0])),
        dilation=(1, int(attrs.dilation[0])),
        groups=attrs.groups,
        out_dtype=attrs.out_dtype,
    )
    graph.passed("a one-dimensional transposed convolution became one of height 1")
    return R.reshape(graph.emit(flat), result)
