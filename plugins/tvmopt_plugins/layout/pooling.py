"""Pooling on blocked channels."""

from functools import partial
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, dtype_of, is_op, shape_of
from tvmopt_plugins.layout.blocked import ANCHOR, Images
from tvmopt_schedules.cpu.compute.window import (
    Window,
    avg_pool_nchwc,
    max_pool_nchwc,
    sum_pool_nchwc,
)

_POOLS = ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
_TYPES = {
    "relax.nn.max_pool2d": ("float32", "uint8", "int8"),
    "relax.nn.avg_pool2d": ("float32",),
}
_REDUCTIONS = ("relax.mean", "relax.max", "relax.sum")


def pool(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.nn.max_pool2d` and `relax.nn.avg_pool2d`."""
    if not is_op(value, *_POOLS):
        return None
    data, attrs = value.args[0], attrs_of(value)
    shape, result = shape_of(data), shape_of(value)
    why = None
    if shape is None or result is None:
        why = "its shape is not static"
    elif dtype_of(data) not in _TYPES[value.op.name]:
        why = f"it pools {dtype_of(data)}"
    elif str(attrs.layout) != "NCHW":
        why = f"its layout is {attrs.layout}"
    elif images.find(graph, data) is None and 2 * shape[1] < images.block:
        why = f"{shape[1]} channels fill less than half a block of {images.block}"
    elif 0 in (*shape, *result) or any(int(p) < 0 for p in attrs.padding):
        why = "it is empty or has a negative padding"
    if why is not None or shape is None or result is None:
        graph.missed(f"left in the plain layout: {why}")
        return None
    given = _window(attrs)
    window = _reaching(given, shape, result)
    image = images.enter(graph, data)
    if is_op(value, "relax.nn.max_pool2d"):
        call = graph.bb.call_te(
            partial(max_pool_nchwc, window=window),
            image.var,
            primfunc_name_hint="max_pool2d",
            primfunc_attrs=ANCHOR,
        )
    else:
        counts = [
            _counts(given, shape, result, axis, with_padding=bool(attrs.count_include_pad))
            for axis in (0, 1)
        ]
        call = _average(graph, image.var, window, np.multiply.outer(*counts))
    return images.leave(graph, call, shape[1])


def pool_adaptively(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.nn.adaptive_avg_pool2d` where all windows have the same size."""
    if not is_op(value, "relax.nn.adaptive_avg_pool2d"):
        return None
    image = images.find(graph, value.args[0])
    result = shape_of(value)
    if image is None or result is None or str(attrs_of(value).layout) != "NCHW":
        return None
    _, channels, height, width = image.shape
    if height % result[2] or width % result[3]:
        return None
    kernel = height // result[2], width // result[3]
    call = _average(
        graph, image.var, Window(kernel, kernel), np.full((1, 1), kernel[0] * kernel[1])
    )
    return images.leave(graph, call, channels)


def reduce_pixels(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """Reductions over rows and columns: a window as large as the image.

    `relax.mean` and `relax.max` of floats, and `relax.sum` of uint8 in int32.
    """
    if not is_op(value, *_REDUCTIONS):
        return None
    image = images.find(graph, value.args[0])
    attrs = attrs_of(value)
    if image is None or attrs.axis is None or {int(a) % 4 for a in attrs.axis} != {2, 3}:
        return None
    _, channels, height, width = image.shape
    window = Window((height, width), (height, width))
    if is_op(value, "relax.sum"):
        widening = graph.producer(image.var)
        if not is_op(widening, "relax.astype") or dtype_of(value) != "int32":
            return None
        call = graph.bb.call_te(
            partial(sum_pool_nchwc, window=window, dtype="int32"),
            widening.args[0],
            primfunc_name_hint="sum_pool2d",
            primfunc_attrs=ANCHOR,
        )
    elif dtype_of(value) != "float32":
        return None
    elif is_op(value, "relax.mean"):
        call = _average(graph, image.var, window, np.full((1, 1), height * width))
    else:
        call = graph.bb.call_te(
            partial(max_pool_nchwc, window=window),
            image.var,
            primfunc_name_hint="max_pool2d",
            primfunc_attrs=ANCHOR,
        )
    plain = images.leave(graph, call, channels)
    return plain if bool(attrs.keepdims) else relax.op.reshape(plain, shape_of(value))


def _average(
    graph: Graph, image: relax.Expr, window: Window, counts: np.ndarray[Any, Any]
) -> relax.Expr:
    same = counts.min() == counts.max()
    scale = 1.0 / float(counts.flat[0]) if same else relax.const(1.0 / counts, "float32")
    return graph.bb.call_te(
        partial(avg_pool_nchwc, window=window),
        image,
        scale=scale,
        primfunc_name_hint="avg_pool2d",
        primfunc_attrs=ANCHOR,
    )


def _window(attrs: Any) -> Window:
    top, left, bottom, right = (int(p) for p in attrs.padding)
    return Window(
        (int(attrs.pool_size[0]), int(attrs.pool_size[1])),
        (int(attrs.strides[0]), int(attrs.strides[1])),
        (top, left, bottom, right),
        (int(attrs.dilation[0]), int(attrs.dilation[1])),
    )


def _reaching(window: Window, shape: tuple[int, ...], result: tuple[int, ...]) -> Window:
    """The window with as much padding behind the image as the last result needs (`ceil_mode`)."""
    ends: list[int] = []
    for axis in (0, 1):
        reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        last = (result[2 + axis] - 1) * window.strides[axis] - window.padding[axis] + reach
        ends.append(max(0, last - shape[2 + axis]))
    top, left, _, _ = window.padding
    return Window(window.kernel, window.strides, (top, left, ends[0], ends[1]), window.dilation)


def _counts(
    window: Window,
    shape: tuple[int, ...],
    result: tuple[int, ...],
    axis: int,
    *,
    with_padding: bool,
) -> np.ndarray[Any, Any]:
    """How many positions of each window lie inside the image, or inside its padding too."""
    starts = np.arange(result[2 + axis])[:, None] * window.strides[axis] - window.padding[axis]
    places = starts + np.arange(window.kernel[axis])[None, :] * window.dilation[axis]
    low, high = 0, shape[2 + axis]
    if with_padding:
        low, high = -window.padding[axis], high + window.padding[axis + 2]
    return np.maximum(((places >= low) & (places < high)).sum(axis=1), 1)
