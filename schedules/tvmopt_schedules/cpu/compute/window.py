"""Windows that move over images; depthwise convolution and pooling on blocked channels.

Images are `[N, ceil(C / b), H, W, b]`; what the last block holds beyond `C` never meets a channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION

WINDOW = "window_nchwc"

# `te.max` begins with the lowest finite number, which is larger than -inf.
_largest: Any = te.comm_reducer(
    lambda a, b: tirx.Max(a, b), lambda dtype: _lowest(dtype), name="largest"
)


@dataclass(frozen=True)
class Window:
    """How a kernel window moves over an image.

    Attributes:
        kernel: height and width.
        strides: vertical and horizontal.
        padding: top, left, bottom, right.
        dilation: vertical and horizontal.
        fill: what the padding holds; 0, but for integers whose zero is another number.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    fill: int = 0

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for an image of `height` and `width`."""
        top, left, bottom, right = self.padding
        reach_h = (self.kernel[0] - 1) * self.dilation[0] + 1
        reach_w = (self.kernel[1] - 1) * self.dilation[1] + 1
        return (
            (height + top + bottom - reach_h) // self.strides[0] + 1,
            (width + left + right - reach_w) // self.strides[1] + 1,
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether each result depends on the one pixel at its own place."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.padding)


def depthwise_nchwc(data: te.Tensor, weight: te.Tensor, window: Window) -> te.Tensor:
    """Convolution of each channel with kernels of its own.

    Args:
        data: the image; in float32, or in uint8 for a result in int32.
        weight: `[m * C / b, KH, KW, b]`; of `m` kernels for each channel, the first of all channels
            come first, and so do their results.
        window: the window.
    """
    padded = pad_image(data, window)
    kh, kw = _axes(window)
    batch, _, *rest = _shape(data, window)
    blocks, results = int(data.shape[1]), int(weight.shape[0])

    def read(n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr, b: tirx.Expr) -> Any:
        image = c if results == blocks else tirx.floormod(c, blocks)
        return padded(n, image, *_place(window, (y, x), (kh, kw)), b).astype(weight.dtype)

    result: Any = te.compute(
        (batch, results, *rest),
        lambda n, c, y, x, b: te.sum(read(n, c, y, x, b) * weight[c, kh, kw, b], axis=[kh, kw]),
        name="depthwise_nchwc",
        attrs={OP_ANNOTATION: WINDOW},
    )
    return result


def max_pool_nchwc(data: te.Tensor, window: Window) -> te.Tensor:
    """The largest value in each window; -inf, or the lowest integer, where nothing is larger."""
    padded = pad_image(data, window, _lowest(data.dtype))
    kh, kw = _axes(window)
    result: Any = te.compute(
        _shape(data, window),
        lambda n, c, y, x, b: _largest(
            padded(n, c, *_place(window, (y, x), (kh, kw)), b), axis=[kh, kw]
        ),
        name="max_pool_nchwc",
        attrs={OP_ANNOTATION: WINDOW},
    )
    return result


def sum_pool_nchwc(data: te.Tensor, window: Window, dtype: str | None = None) -> te.Tensor:
    """The sum over each window, in `dtype` if it is another one than that of `data`."""
    padded = pad_image(data, window)
    kh, kw = _axes(window)
    result: Any = te.compute(
        _shape(data, window),
        lambda n, c, y, x, b: te.sum(
            padded(n, c, *_place(window, (y, x), (kh, kw)), b).astype(dtype or data.dtype),
            axis=[kh, kw],
        ),
        name="sum_pool_nchwc",
        attrs={OP_ANNOTATION: WINDOW},
    )
    return result


def avg_pool_nchwc(data: te.Tensor, window: Window, scale: te.Tensor | float) -> te.Tensor:
    """The mean over each window.

    Args:
        data: the image.
        window: the window.
        scale: one over the number of elements that count; `[OH, OW]` where windows differ.
    """
    total = sum_pool_nchwc(data, window)

    def mean(n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        factor = tirx.const(scale, data.dtype) if isinstance(scale, float) else scale[y, x]
        return total[n, c, y, x, b] * factor

    result: Any = te.compute(total.shape, mean, name="mean")
    return result


def _axes(window: Window) -> tuple[tirx.IterVar, tirx.IterVar]:
    return te.reduce_axis((0, window.kernel[0]), "kh"), te.reduce_axis((0, window.kernel[1]), "kw")


def _shape(data: te.Tensor, window: Window) -> tuple[int, ...]:
    batch, blocks, height, width, block = (int(dim) for dim in data.shape)
    return (batch, blocks, *window.output(height, width), block)


def _place(window: Window, at: Sequence[tirx.Expr], offset: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    pairs = zip(at, window.strides, offset, window.dilation, strict=True)
    return [a * stride + o * dilation for a, stride, o, dilation in pairs]


def _lowest(dtype: str) -> Any:
    return tirx.const(-inf, dtype) if "float" in str(dtype) else tirx.min_value(str(dtype))


def pad_image(data: te.Tensor, window: Window, fill: Any = None) -> te.Tensor:
    """The image with the window's padding around it; itself when there is none.

    Args:
        data: the image, plain or blocked.
        window: the window.
        fill: what the padding holds, if not the window's.
    """
    if not any(window.padding):
        return data
    top, left, bottom, right = window.padding
    shape = [int(dim) for dim in data.shape]
    height, width = shape[2], shape[3]
    shape[2] += top + bottom
    shape[3] += left + right
    edge = tirx.const(window.fill, data.dtype) if fill is None else fill

    def read(n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr, *b: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < height + top, x >= left, x < width + left)
        return tirx.if_then_else(inside, data(n, c, y - top, x - left, *b), edge)

    result: Any = te.compute(shape, read, name="data_pad")
    return result
