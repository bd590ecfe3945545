"""Searches over a histogram for the range that loses least."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tvmopt.quantization import Encoding
from tvmopt_plugins.calibrators.histogram import Histogram

Array = npt.NDArray[Any]

_CANDIDATES = 40
_LEVELS = 256


def least_squares(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """The range within `low` to `high` whose 256 steps have the least squared error.

    Both ends shrink together first, then each alone: a SiLU is short on one side.
    """
    used = np.flatnonzero(histogram.counts)
    centers = np.clip(histogram.centers[used], low, high).astype(np.float32)
    counts = histogram.counts[used]

    def error(low: float, high: float) -> float:
        rest = centers - Encoding.of_range(low, high, "uint8").round_trip(centers)
        return float(counts @ (rest.astype(np.float64) ** 2))

    shares = [count / _CANDIDATES for count in range(1, _CANDIDATES + 1)]
    best = min(((low * s, high * s) for s in shares), key=lambda r: error(*r))
    best = min(((best[0], high * s) for s in shares), key=lambda r: error(*r))
    return min(((low * s, best[1]) for s in shares), key=lambda r: error(*r))


def least_divergence(histogram: Histogram) -> float:
    """The threshold on magnitudes whose steps have the least KL divergence from the values.

    Where nothing is negative, 256 steps lie below the threshold, else 128.
    """
    used = np.flatnonzero(histogram.counts)
    magnitudes = np.abs(histogram.centers[used])
    bins = (magnitudes / histogram.width).astype(np.int64)
    counts = np.bincount(bins, histogram.counts[used], minlength=1)
    levels = _LEVELS if histogram.start >= 0 else _LEVELS // 2
    least = min(levels, len(counts))
    candidates = np.unique(np.linspace(least, len(counts), 4 * _CANDIDATES).astype(int))
    best = min(candidates, key=lambda count: _divergence(counts, int(count), levels))
    return float(best * histogram.width)


def _divergence(counts: Array, kept: int, levels: int) -> float:
    """The divergence of the first `kept` bins, the rest added to the last, from `levels` steps."""
    original = counts[:kept].copy()
    levels_of = np.arange(kept) * levels // kept
    occupied = original > 0
    sums = np.bincount(levels_of, original, minlength=levels)
    members = np.bincount(levels_of, occupied, minlength=levels)
    steps = np.where(occupied, (sums / np.maximum(members, 1))[levels_of], 0.0)
    original[-1] += counts[kept:].sum()
    # Where the last bin holds nothing but what saturates, no step stands for it: a rare one does.
    steps = np.where((original > 0) & (steps == 0), 1e-4, steps)
    seen = original > 0
    p, q = original[seen] / original.sum(), steps[seen] / steps.sum()
    return float((p * np.log(p / q)).sum())
