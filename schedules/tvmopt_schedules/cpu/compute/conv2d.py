"""Two-dimensional convolution on blocked channels.

Layouts, with `b` channels of a block as the innermost dimension (one vector register):

- activations `[N, ceil(C / b), H, W, b]`; the last block is padded, and its padding is never read
- weights `[ceil(O / b), I / f, KH, KW, f, b]`, packed ahead of time; `I` counts the input channels
  of one group and `f = pack_factor(I, b)` of them lie side by side, so that no loop has a tail
- for bfloat16 and for 8-bit integers, weights `[ceil(O / b), I / f, KH, KW, f / s, b]` of pairs or
  quads (`s` is 2 or 4) of input channels, see `tvmopt_schedules.cpu.code.dots`; weights may also be
  float16, and are widened
"""

from math import gcd
from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.code.dots import Dot
from tvmopt_schedules.cpu.compute.window import Window, pad_image

CONV2D = "conv2d_nchwc"
CONV2D_PIXELS = "conv2d_nchwc_pixels"
GROUPS = "tvmopt.groups"


def pack_factor(channels: int, block: int) -> int:
    """How many of `channels` input channels lie side by side in packed weights."""
    return gcd(channels, block)


def conv2d_nchwc(
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    in_channels: int,
    groups: int = 1,
    dot: Dot | None = None,
    marks: te.Tensor | None = None,
    excess: te.Tensor | None = None,
) -> te.Tensor:
    """Convolution of a blocked, or of a plain `[N, C, H, W]`, image with packed weights.

    Args:
        data: the image; a plain one suits few channels, such as the three of a first layer; with
            `dot` it is one of pairs or quads `[N, C / s, H, W]`.
        weight: see the module's docstring.
        window: kernel size, strides, padding and dilation.
        in_channels: true number of input channels, all groups together.
        groups: groups of channels; with more than one, a block of output channels must lie in one.
        dot: what the weights are packed for; None where they are single numbers.
        marks: for a dot that has them, those of the steps of each block of output channels:
            `[ceil(O / b), I / f, KH, KW, steps of f]`.
        excess: its rows, `[rows, elements, b]`.

    Returns:
        The blocked image, in float32, or in int32 for 8-bit integers.
    """
    batch, height, width = (int(data.shape[i]) for i in (0, 2, 3))
    out_blocks, outer, kernel_h, kernel_w, factor, block = (int(dim) for dim in weight.shape)
    steps = outer * factor
    size = dot.size if dot else 1
    group_in = size * steps
    assert group_in * groups == in_channels, f"{groups} groups of {group_in}, not {in_channels}"
    assert window.kernel == (kernel_h, kernel_w)
    assert out_blocks % groups == 0
    out_h, out_w = window.output(height, width)
    padded = pad_image(data, window)
    elements = dot.elements if dot else 1
    ic = te.reduce_axis((0, steps // elements), "ic")

    def read(n: Any, oc: Any, y: Any, x: Any, inside: Any) -> Any:
        first = 0 if groups == 1 else tirx.floordiv(oc, out_blocks // groups) * group_in
        channel = first + inside
        if len(padded.shape) == 4:
            return padded[n, channel, y, x]
        block_in = int(padded.shape[4])
        return padded[n, tirx.floordiv(channel, block_in), y, x, tirx.floormod(channel, block_in)]

    def product(n: Any, oc: Any, y: Any, x: Any, kh: Any, kw: Any, ob: Any) -> Any:
        def factors(step: Any) -> Any:
            outer, inner = tirx.floordiv(step, factor), tirx.floormod(step, factor)
            return weight[oc, outer, kh, kw, inner, ob]

        def joined(step: Any) -> Any:
            if len(padded.shape) == 4:
                return padded[n, step, y, x]
            assert dot is not None
            return dot.join(*(read(n, oc, y, x, size * step + part) for part in range(size)))

        if dot is None:
            return read(n, oc, y, x, ic) * factors(ic).astype(data.dtype)
        at = [elements * ic + number for number in range(elements)]
        operands = [*map(joined, at), *map(factors, at)]
        if marks is not None and excess is not None:
            inside = factor // elements
            mark = marks[oc, tirx.floordiv(ic, inside), kh, kw, tirx.floormod(ic, inside)]
            operands += [mark, *(excess[mark, number, ob] for number in range(elements))]
        return dot.multiply(*operands)

    if window.is_pointwise:
        pixels: Any = te.compute(
            (batch, out_blocks, out_h * out_w, block),
            lambda n, oc, p, ob: te.sum(
                product(n, oc, tirx.floordiv(p, out_w), tirx.floormod(p, out_w), 0, 0, ob),
                axis=[ic],
            ),
            name=CONV2D,
            attrs={OP_ANNOTATION: CONV2D_PIXELS, GROUPS: groups},
        )
        rows: Any = te.compute(
            (batch, out_blocks, out_h, out_w, block),
            lambda n, oc, y, x, ob: pixels[n, oc, y * out_w + x, ob],
            name="rows",
        )
        return rows
    (stride_h, stride_w), (dilation_h, dilation_w) = window.strides, window.dilation
    kh = te.reduce_axis((0, kernel_h), "kh")
    kw = te.reduce_axis((0, kernel_w), "kw")
    result: Any = te.compute(
        (batch, out_blocks, out_h, out_w, block),
        lambda n, oc, y, x, ob: te.sum(
            product(
                *(n, oc, y * stride_h + kh * dilation_h, x * stride_w + kw * dilation_w),
                *(kh, kw, ob),
            ),
            axis=[ic, kh, kw],
        ),
        name=CONV2D,
        attrs={OP_ANNOTATION: CONV2D, GROUPS: groups},
    )
    return result
