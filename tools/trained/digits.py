"""scikit-learn's 1797 handwritten digits of 8x8 pixels, magnified to 32x32 and distorted.

Each test image is shown in several distortions: one prediction more or less is then a small part
of the accuracy, which can be compared to a few tenths of a point.
"""

import numpy as np
import torch
from torch import Tensor, nn

from trained.dataset import Dataset, Samples

SIZE = 32  # pixels
TEST_IMAGES = 797
TEST_DISTORTIONS = 4
CALIBRATION_IMAGES = 200
ROTATION = 0.35  # radians, the most
ZOOM = 0.2  # the most, either way
SHIFT = 0.2  # of half the image's size, the most
NOISE = 0.15  # standard deviation, of pixels from 0 to 1


def load(seed: int) -> Dataset:
    """Images float32 `[N, 1, 32, 32]`, about 0 to 1; the training images are not distorted."""
    # Not above: what make_models.py makes without --trained does without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    train, test, train_labels, test_labels = train_test_split(
        magnified(torch.from_numpy(source.images)),
        source.target.astype(np.int64),
        test_size=TEST_IMAGES,
        stratify=source.target,
        random_state=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    shown = distorted(test.repeat(TEST_DISTORTIONS, 1, 1, 1), generator)
    calibration = distorted(train[:CALIBRATION_IMAGES], generator)
    return Dataset(
        train=Samples({"image": train.numpy()}, train_labels),
        calibration=Samples({"image": calibration.numpy()}, train_labels[:CALIBRATION_IMAGES]),
        test=Samples({"image": shown.numpy()}, np.tile(test_labels, TEST_DISTORTIONS)),
        classes=tuple(map(str, range(10))),
    )


def magnified(images: Tensor) -> Tensor:
    """Pixels from 0 to 16, `[N, 8, 8]`, to pixels from 0 to 1, `[N, 1, 32, 32]`."""
    pixels = images[:, None].float() / 16
    return nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear")


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image rotated, zoomed, moved, and with noise on it."""

    def uniform(most: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * most

    angle, zoom = uniform(ROTATION), 1 + uniform(ZOOM)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [
        torch.stack([cosine, -sine, uniform(SHIFT)], 1),
        torch.stack([sine, cosine, uniform(SHIFT)], 1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return moved + NOISE * torch.randn(images.shape, generator=generator)
