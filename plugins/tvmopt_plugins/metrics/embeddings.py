"""Embeddings: their cosines, and in which order pairs of them are similar."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def embeddings_of(output: Array) -> Array:
    """One vector for each sample, `[N, features]`: of several tokens, their mean."""
    if output.ndim < 2:
        raise ValueError(f"embeddings are [samples, features], got shape {list(output.shape)}")
    middle = tuple(range(1, output.ndim - 1))
    return output.astype(np.float64).mean(middle)


def cosines(output: Array, reference: Array) -> Array:
    """Of each row with the reference's; 1 where both are zero."""
    rows = len(reference) if reference.ndim else 1
    a, b = (one.astype(np.float64).reshape(rows, -1) for one in (output, reference))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~(a.any(1) | b.any(1))
    found = (a * b).sum(1) / np.where(lengths == 0, 1, lengths)
    return np.where(both_zero, 1.0, found)


def rank_correlation(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Spearman's, of the similarities of all pairs; NaN where they are all equal, or too few."""
    if len(ours) < 3:
        return float("nan")
    a, b = (_ranks(_similarities(np.stack(one))) for one in (ours, theirs))
    a, b = a - a.mean(), b - b.mean()
    lengths = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / lengths if lengths else float("nan")


def _similarities(embeddings: Array) -> Array:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(lengths == 0, 1, lengths)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def _ranks(values: Array) -> Array:
    """Positions in ascending order; equal values share the mean of theirs."""
    if np.isnan(values).any():
        return np.full(values.shape, np.nan)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
