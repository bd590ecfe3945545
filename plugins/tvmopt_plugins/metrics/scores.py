"""Scores of classes against labels."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def scores_of(output: Array, labels: Array, axis: int, ignore: int) -> tuple[Array, Array]:
    """Rows of scores `[N, classes]` and a label each, without those to ignore.

    Raises:
        ValueError: there is not one label for each row, or one that is no class.
    """
    if not -output.ndim <= axis < output.ndim:
        raise ValueError(f"scores have shape {list(output.shape)}, which has no axis {axis}")
    rows = np.moveaxis(output, axis, -1)
    if labels.shape == (*rows.shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != rows.shape[:-1]:
        expected = f"labels of shape {list(rows.shape[:-1])}"
        raise ValueError(
            f"scores of shape {list(output.shape)} want {expected}, got {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, got {labels.dtype.name}")
    flat, rows = labels.reshape(-1).astype(np.int64), rows.reshape(-1, rows.shape[-1])
    judged = flat != ignore
    flat, rows = flat[judged], rows[judged]
    if flat.size and not (flat.min() >= 0 and flat.max() < rows.shape[1]):
        raise ValueError(
            f"there are {rows.shape[1]} classes, and labels {flat.min()} to {flat.max()}"
        )
    return rows, flat


def rank_of(scores: Array, labels: Array) -> Array:
    """How many scores of a row come before the label's: higher ones, and equal ones on its left.

    A label whose score is NaN comes last.
    """
    picked = np.take_along_axis(scores, labels[:, None], 1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    ranks = ((scores > picked) | ((scores == picked) & before)).sum(1)
    return np.where(np.isnan(picked[:, 0]), scores.shape[1], ranks)


def negative_log_likelihood(scores: Array, labels: Array) -> float:
    """`sum(log(sum(exp(scores))) - score of the label)`."""
    wide = scores.astype(np.float64)
    highest = wide.max(1, keepdims=True, initial=-np.inf)
    totals = np.log(np.exp(wide - highest).sum(1)) + highest[:, 0]
    return float((totals - np.take_along_axis(wide, labels[:, None], 1)[:, 0]).sum())
