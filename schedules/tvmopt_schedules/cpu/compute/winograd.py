"""Convolution by Winograd's minimal filtering: fewer multiplications for more additions.

A square of `m x m` results comes from `a x a` pixels, `a = m + r - 1`, for a kernel of `r x r`:

    y = A^T [ (G g G^T) * (B^T d B) ] A

with `*` element by element. Summed over the input channels, the products at each of the `a * a`
places are a matrix product of [squares, channels] and [channels, output channels]: `a^2 / m^2`
multiplications for a result instead of `r^2`. F(2x2, 3x3) takes 4 instead of 9, F(4x4, 3x3) 2.25.

The matrices are those of Toom and Cook for polynomials that are evaluated at `a - 1` points and at
infinity (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015; Barabasz,
Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution
for Deep Neural Networks", 2020, section 3). `G g G^T` is computed ahead of time in float64.

Rounding. To first order in `u = 2^-24`, with `|.|` of matrices element by element and `K` input
channels, each result is off by at most (Barabasz et al., theorem 3, in two dimensions)

    (K + 2 (p + q) + 2) u |A^T| [ sum_K |G g G^T| * (|B^T| |d| |B|) ] |A|

where `p` and `q` are the most roundings that a term meets in one pass of `B^T` and of `A^T`: 1 and
2 for m = 2, 4 and 5 for m = 4 (see `ROUNDINGS`). What stands behind `u` is at most 16 (m = 2) and
158 (m = 4) times the sum of `|g|` times the largest `|d|`, whatever the weights (`AMPLIFICATION`).

The points decide how large it is in practice. For m = 4, the usual 0, 1, -1, 2, -2 give four times
the mean error of a direct sum, sqrt(1/2) and sqrt(2) with both signs twice it, with no more
operations: the matrices contain their squares and sums of squares, 1/2, 2 and 5/2, which are exact.
Measured with 256 channels of Gaussian data after a ReLU, relative to the largest result (rms and
largest error): direct 1.6e-7 and 1.2e-6, m = 2 1.3e-7 and 4.8e-7, m = 4 3.0e-7 and 2.5e-6.
"""

from dataclasses import dataclass
from functools import cache
from math import prod, sqrt
from typing import Any

import numpy as np
from tvm import te, tirx

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.compute.channel_blocks import blocks_of
from tvmopt_schedules.cpu.compute.window import Window

Array = np.ndarray[Any, Any]

WINOGRAD = "winograd_nchwc"
TILE, TOP, LEFT = (f"tvmopt.winograd.{name}" for name in ("tile", "top", "left"))
"""Annotations of the block with the results: results in a row of a square, and padding."""

ROUNDINGS = {2: (1, 2), 4: (4, 5)}
"""`p` and `q` of the module's docstring, without fused multiply-adds, by the tile."""

AMPLIFICATION = {2: 16.0, 4: 158.0}
"""The most that `|A^T| [|G g G^T| * (|B^T| |d| |B|)] |A|` is for `|d| <= 1`, `sum |g| <= 1`."""

_POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))}
"""Where polynomials are evaluated, besides infinity, by the side of a square of pixels."""


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m x m, r x r).

    Attributes:
        tile: `m`, results in a row of a square.
        side: `a = m + r - 1`, pixels in a row of a square.
        image: `B^T`, `[a, a]`.
        kernel: `G`, `[a, r]`.
        result: `A^T`, `[m, a]`.
    """

    tile: int
    side: int
    image: Array
    kernel: Array
    result: Array


@cache
def transforms(tile: int, kernel: int = 3) -> Transforms:
    """The matrices for squares of `tile` results, in float64.

    With points `p_i`, `M(x) = prod (x - p_i)` and `N_i = prod_(j != i) (p_i - p_j)`: row `i` of
    `B^T` has the coefficients of `M(x) / (x - p_i)`, row `i` of `G` is `p_i^k / N_i`, column `i` of
    `A^T` is `p_i^k`; the last ones are of infinity.
    """
    side = tile + kernel - 1
    points = _POINTS[side]
    image, taps, result = np.zeros((side, side)), np.zeros((side, kernel)), np.zeros((tile, side))
    for i, point in enumerate(points):
        others = [p for p in points if p != point]
        image[i, : side - 1] = _exact(np.poly(others)[::-1])
        taps[i] = point ** np.arange(kernel) / prod(point - other for other in others)
        result[:, i] = _exact(point ** np.arange(tile))
    image[-1] = _exact(np.poly(points)[::-1])
    taps[-1, -1] = result[-1, -1] = 1.0
    return Transforms(tile, side, image, taps, result)


def _exact(values: Array) -> Array:
    """Values with what should be a multiple of 1/2 or 0 made exactly that."""
    halves = np.round(2 * values) / 2
    return np.where(np.isclose(values, halves, rtol=0, atol=1e-9), halves, values)


def pack_winograd(weight: Array, tile: int, block: int, vectors: int) -> Array:
    """`[O, I, r, r]` transformed, as `[ceil(O / (v b)), a * a, I, v * b]`, with zeros beyond `O`.

    Args:
        weight: the kernels, float32; the transform is computed in float64 and rounded once.
        tile: results in a row of a square.
        block: channels of a block.
        vectors: blocks of output channels that are computed together.
    """
    out_channels, in_channels, taps, _ = weight.shape
    matrix = np.kron(*[transforms(tile, taps).kernel] * 2)
    wide = matrix.astype("float64") @ weight.reshape(-1, taps * taps).T.astype("float64")
    width = vectors * block
    chunks = blocks_of(out_channels, width)
    packed = np.zeros((len(matrix), chunks * width, in_channels), "float32")
    packed[:, :out_channels] = wide.reshape(len(matrix), out_channels, in_channels)
    split = packed.reshape(len(matrix), chunks, width, in_channels)
    return np.ascontiguousarray(split.transpose(1, 0, 3, 2))


def winograd_nchwc(
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    in_channels: int,
    out_channels: int,
) -> te.Tensor:
    """Convolution of a blocked image, stride 1, with transformed weights.

    What it says is what is computed; the loops that make it fast are those of `winograd_rule`.

    Args:
        data: `[N, ceil(I / b), H, W, b]`.
        weight: as `pack_winograd` makes it.
        window: a square kernel and the padding.
        in_channels: `I`.
        out_channels: `O`.

    Returns:
        `[N, ceil(O / b), OH, OW, b]`.
    """
    batch, _, height, width, block = (int(dim) for dim in data.shape)
    _, places, depth, panel = (int(dim) for dim in weight.shape)
    side = round(sqrt(places))
    tile = side - window.kernel[0] + 1
    assert depth == in_channels
    matrices = transforms(tile, window.kernel[0])
    top, left, _, _ = window.padding
    out_h, out_w = window.output(height, width)
    rows, columns = blocks_of(out_h, tile), blocks_of(out_w, tile)
    i, j = te.reduce_axis((0, side), "i"), te.reduce_axis((0, side), "j")

    def pixel(t: Any, c: Any) -> Any:
        n = tirx.floordiv(t, rows * columns)
        y = tirx.floordiv(tirx.floormod(t, rows * columns), columns) * tile + i - top
        x = tirx.floormod(t, columns) * tile + j - left
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        value = data[n, tirx.floordiv(c, block), y, x, tirx.floormod(c, block)]
        return tirx.if_then_else(inside, value, tirx.const(0.0, data.dtype))

    seen: Any = te.compute(
        (places, batch * rows * columns, in_channels),
        lambda at, t, c: te.sum(
            pixel(t, c)
            * _entry(matrices.image, at // side, i)
            * _entry(matrices.image, at % side, j),
            axis=[i, j],
        ),
        name="winograd_image",
    )
    ic = te.reduce_axis((0, in_channels), "ic")
    products: Any = te.compute(
        (places, batch * rows * columns, blocks_of(out_channels, block), block),
        lambda at, t, oc, ob: te.sum(
            seen[at, t, ic] * weight[(oc * block) // panel, at, ic, (oc * block) % panel + ob],
            axis=[ic],
        ),
        name="winograd_products",
    )
    u, v = te.reduce_axis((0, side), "u"), te.reduce_axis((0, side), "v")
    result: Any = te.compute(
        (batch, blocks_of(out_channels, block), out_h, out_w, block),
        lambda n, oc, y, x, ob: te.sum(
            products[u * side + v, (n * rows + y // tile) * columns + x // tile, oc, ob]
            * _entry(matrices.result, y % tile, u)
            * _entry(matrices.result, x % tile, v),
            axis=[u, v],
        ),
        name=WINOGRAD,
        attrs={OP_ANNOTATION: WINOGRAD, TILE: tile, TOP: top, LEFT: left},
    )
    return result


def _entry(matrix: Array, row: Any, column: Any) -> Any:
    """`matrix[row, column]` as an expression."""
    value: Any = tirx.const(0.0, "float32")
    for r, c in zip(*np.nonzero(matrix), strict=True):
        here = tirx.all(row == int(r), column == int(c))
        value = tirx.Select(here, tirx.const(float(matrix[r, c]), "float32"), value)
    return value
