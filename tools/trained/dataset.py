"""Labelled samples in three disjoint uses: training, calibration (taken from training), test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL = "label"


@dataclass(frozen=True)
class Samples:
    """Inputs by name, the first dimension counting samples, and labels int64 `[N]`."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, indices: NDArray[np.int64] | slice) -> "Samples":
        """Some of the samples."""
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        return Samples(inputs, self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """What a network learns from, what its ranges are taken from, and what it is judged by.

    Attributes:
        calibration: some samples of `train`, as the network sees them in `test`.
        test: shares no sample with `train`.
        classes: what a label means.
    """

    train: Samples
    calibration: Samples
    test: Samples
    classes: tuple[str, ...]

    def write(self, folder: Path, name: str) -> None:
        """`NAME_train.npz`, `NAME_test.npz`, and `NAME_calibration.npz`, which has no labels."""
        np.savez_compressed(folder / f"{name}_calibration.npz", **self.calibration.inputs)
        for use, samples in (("train", self.train), ("test", self.test)):
            labels = {LABEL: samples.labels}
            np.savez_compressed(folder / f"{name}_{use}.npz", **samples.inputs, **labels)
