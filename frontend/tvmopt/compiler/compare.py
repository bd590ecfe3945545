"""How far two tensors are apart, and what is still equal within rounding."""

from typing import Any

import numpy as np

from tvmopt.compiler.executor import Array
from tvmopt.compiler.manifest import OutputError

FLOAT_LIMIT = 1e-4
"""Largest difference over largest magnitude that float32 (and float64) results may have.

Both programs round each operation to within 2^-24 = 6e-8 and add up in different orders. A sum of K
products then differs by about sqrt(K) * 6e-8 of its magnitude, 4e-6 for the K = 4608 of a ResNet's
widest convolution. Tens of layers in a row add up to some 1e-5; 1e-4 leaves a factor for `exp` and
its like, which are polynomials here. A wrong weight or a dropped term shows at 1e-2 and above."""

HALF_LIMIT = 2e-2
"""The same for float16 (and bfloat16): each operation is rounded to within 2^-11 (2^-8)."""


def limit_for(dtype: np.dtype[Any]) -> float:
    """What the relative error of a result of this dtype must not exceed; 0 for integers."""
    if dtype.kind in "iub":
        return 0.0
    return HALF_LIMIT if dtype.itemsize <= 2 else FLOAT_LIMIT


def compare(name: str, ours: Array, original: Array, limit: float | None = None) -> OutputError:
    """The error of `ours`: `max |ours - original| / max |original|` over the finite elements.

    NaN must stand where the original has NaN, and each infinity where it has the same one; any that
    does not makes the error infinite. Where the original is zero everywhere, the error is the
    absolute one. Integers and booleans must be equal: their limit is 0.
    """
    if limit is None:
        limit = limit_for(original.dtype)
    if ours.shape != original.shape or ours.dtype != original.dtype:
        return OutputError(name, np.inf, np.inf, limit)
    if original.size == 0:
        return OutputError(name, 0.0, 0.0, limit)
    wide = np.complex128 if original.dtype.kind == "c" else np.float64
    a, b = ours.astype(wide), original.astype(wide)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return OutputError(name, np.inf, np.inf, limit)
    finite_share = float(finite.mean())
    if not finite_share:
        return OutputError(name, 0.0, 0.0, limit, finite_share)
    if original.dtype.kind in "iu" and original.dtype.itemsize == 8:  # float64 merges neighbours
        unequal = float((ours != original).any())
        max_abs = max(float(np.abs(a - b).max()), unequal)
    else:
        max_abs = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(b[finite]).max())
    return OutputError(name, max_abs, max_abs / scale if scale else max_abs, limit, finite_share)


def is_within(error: OutputError) -> bool:
    """Whether an output may pass."""
    return error.max_rel <= error.limit


def unblocked(ours: Array, shape: tuple[int, ...]) -> Array | None:
    """`ours` in the shape of the original's tensor, its layout undone; None if it is another thing.

    Understands equal shapes, extents of 1 that one of the two leaves out, and the blocked layouts
    `[N, C/b, ..., b]` of `[N, C, ...]`, whose last block may be padded.
    """
    if ours.shape == shape:
        return ours
    if [d for d in ours.shape if d != 1] == [d for d in shape if d != 1]:
        return ours.reshape(shape)
    if len(shape) >= 3 and ours.ndim == len(shape) + 1:
        blocks, lanes, channels = ours.shape[1], ours.shape[-1], shape[1]
        same = ours.shape[0] == shape[0] and ours.shape[2:-1] == shape[2:]
        if same and (blocks - 1) * lanes < channels <= blocks * lanes:
            merged = np.moveaxis(ours, -1, 2).reshape(shape[0], blocks * lanes, *shape[2:])
            return merged[:, :channels]
    return None
