"""What convolution and pooling are, in NumPy and float64."""

import numpy as np


def windows(
    image: np.ndarray,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    fill: float = 0.0,
) -> np.ndarray:
    """`[N, C, OH, OW, KH, KW]`: each window of `[N, C, H, W]` with its elements."""
    top, left, bottom, right = padding
    borders = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(image.astype("float64"), borders, constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return views[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]


def conv2d(
    image: np.ndarray,
    weight: np.ndarray,
    strides: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Convolution of `[N, C, H, W]` with `[O, C / groups, KH, KW]`."""
    seen = windows(image, weight.shape[2:], strides, padding, dilation)
    parts = [
        np.einsum("ncyxhw,ochw->noyx", one, kernel.astype("float64"), optimize=True)
        for one, kernel in zip(
            np.split(seen, groups, axis=1), np.split(weight, groups, axis=0), strict=True
        )
    ]
    return np.concatenate(parts, axis=1)


def conv2d_transposed(
    image: np.ndarray,
    weight: np.ndarray,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    output_padding: tuple[int, int],
) -> np.ndarray:
    """Each element of `[N, I, H, W]` adds `[O, KH, KW]` of `[I, O, KH, KW]` to the result."""
    batch, _, height, width = image.shape
    _, channels, kernel_h, kernel_w = weight.shape
    full = np.zeros(
        (
            batch,
            channels,
            (height - 1) * strides[0] + kernel_h + output_padding[0],
            (width - 1) * strides[1] + kernel_w + output_padding[1],
        )
    )
    for y in range(height):
        for x in range(width):
            part = np.einsum("ni,iohw->nohw", image[:, :, y, x].astype("float64"), weight)
            top, left = y * strides[0], x * strides[1]
            full[:, :, top : top + kernel_h, left : left + kernel_w] += part
    top, left, bottom, right = padding
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]
