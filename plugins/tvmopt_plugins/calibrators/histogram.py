"""A histogram of a stream: its range grows by doubling, its size never does."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 4096
"""At least half of them are in use, 8 and more for each of 256 steps."""

_MOST_VALUES = 1 << 16
"""Of larger tensors so many are counted, spread evenly: counting takes longer than computing."""


@dataclass
class Histogram:
    """Counts of values in `BINS` bins of equal width; 0 lies in the range.

    Attributes:
        start: the lower edge of the first bin.
        width: of each bin.
        counts: `[BINS]`, int64.
    """

    start: float
    width: float
    counts: Array

    @classmethod
    def covering(cls, low: float, high: float) -> Self:
        """An empty histogram from `low` to `high` and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        span = max(high - low, float(np.finfo(np.float32).tiny))
        return cls(low, span / BINS, np.zeros(BINS, np.int64))

    def add(self, values: Array, low: float, high: float) -> None:
        """Counts values, all between `low` and `high`."""
        self._grow(low, high)
        flat = values.reshape(-1)
        if flat.size > _MOST_VALUES:
            stride = -(-flat.size // _MOST_VALUES)
            flat = flat[:: stride | 1]  # odd: not the same columns of each row
        bins = ((flat.astype(np.float64) - self.start) * (1 / self.width)).astype(np.int64)
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    def quantile(self, share: float) -> float:
        """The value that this share of all lies below, interpolated within a bin."""
        total = np.concatenate([[0], np.cumsum(self.counts)])
        wanted = share * total[-1]
        index = int(np.clip(np.searchsorted(total, wanted, side="left"), 1, BINS))
        inside = (wanted - total[index - 1]) / max(total[index] - total[index - 1], 1)
        return self.start + (index - 1 + inside) * self.width

    @property
    def centers(self) -> Array:
        """The middle of each bin."""
        return self.start + (np.arange(BINS) + 0.5) * self.width

    def _grow(self, low: float, high: float) -> None:
        while high > self.start + BINS * self.width:
            self._merge(to_the_right=False)
        while low < self.start:
            self.start -= BINS * self.width
            self._merge(to_the_right=True)

    def _merge(self, *, to_the_right: bool) -> None:
        """Doubles the width; the old bins become the left or the right half of the new ones."""
        pairs = self.counts.reshape(-1, 2).sum(1)
        empty = np.zeros_like(pairs)
        self.counts = np.concatenate([empty, pairs] if to_the_right else [pairs, empty])
        self.width *= 2
