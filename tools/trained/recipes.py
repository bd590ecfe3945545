"""Which network is trained how, and what is written of it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models.export import write_onnx
from torch import nn

from trained import digits, docstrings, minilm, source_lines
from trained.dataset import Dataset
from trained.networks import SentenceEncoder, mobilenet, residual_cnn
from trained.training import Schedule, accuracy, train

SEED = 0
RECORD = "trained.json"
PUBLISHED = "minilm"
PUBLISHED_USES = {"calibration": slice(0, 200), "test": slice(200, 800)}
"""Sentences: each occurs once, so that none is in two uses."""


@dataclass(frozen=True)
class Recipe:
    """A network, its data, its training.

    Attributes:
        build: makes the network for a number of classes.
        required: the least accuracy on the test data.
    """

    build: Callable[[int], nn.Module]
    load: Callable[[int], Dataset]
    schedule: Schedule
    outputs: tuple[str, ...]
    required: float


def _encoder(classes: int) -> nn.Module:
    encoder = SentenceEncoder(
        vocabulary=source_lines.VOCABULARY,
        length=source_lines.LENGTH,
        width=128,
        heads=4,
        layers=4,
        classes=classes,
    )
    encoder.initialize()
    return encoder


def _distort() -> Callable[[torch.Tensor], torch.Tensor]:
    return partial(digits.distorted, generator=torch.Generator().manual_seed(SEED + 1))


RECIPES = {
    "digits_cnn": Recipe(
        residual_cnn, digits.load, Schedule(20, 50, 1e-2, 1e-2, _distort()), ("logits",), 0.97
    ),
    "digits_mobilenet": Recipe(
        mobilenet, digits.load, Schedule(20, 50, 1e-2, 1e-2, _distort()), ("logits",), 0.95
    ),
    "lines_encoder": Recipe(
        _encoder,
        source_lines.load,
        Schedule(2, 64, 1e-3, 1e-2),
        ("logits", "sentence_embedding"),
        0.65,
    ),
}


def write(names: list[str], folder: Path) -> None:
    """Trains each network and writes its file, its samples and its record; prints the accuracy.

    `PUBLISHED` is trained already: its file and its samples are written.
    """
    path = folder / RECORD
    records: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in names:
        if name == PUBLISHED:
            write_published(folder)
            continue
        records[name] = record = write_one(name, RECIPES[name], folder)
        path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        seconds, correct = record["training_seconds"], record["test_accuracy"]
        print(f"{folder / name}.onnx  accuracy {correct:.2%}  {seconds:.0f} s", flush=True)


def write_one(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Trains and writes one network; returns its record."""
    torch.set_num_threads(1)  # sums in one order, so that a second run gives the same weights
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    start = time.perf_counter()
    data = recipe.load(SEED)
    network = recipe.build(len(data.classes))
    train(network, data.train, recipe.schedule)
    seconds = time.perf_counter() - start
    correct = accuracy(network, data.test)
    if correct < recipe.required:
        raise AssertionError(f"{name}: accuracy {correct:.2%}, not {recipe.required:.0%}")
    one = data.test.taken(slice(1)).inputs
    inputs = tuple(map(torch.from_numpy, one.values()))
    write_onnx(network, inputs, list(one), list(recipe.outputs), folder / f"{name}.onnx")
    data.write(folder, name)
    return {
        "test_accuracy": correct,
        "test_samples": len(data.test),
        "train_samples": len(data.train),
        "classes": list(data.classes),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": SEED,
        "training_seconds": round(seconds, 1),
        "torch": torch.__version__.split("+")[0],
    }


def write_published(folder: Path) -> None:
    """Writes the sentence encoder that others trained, and sentences; nothing labels them."""
    sentences = docstrings.sentences(SEED)
    samples: dict[str, Any] = {}
    for use, chosen in PUBLISHED_USES.items():
        samples = minilm.encoded(sentences[chosen])
        np.savez_compressed(folder / f"{PUBLISHED}_{use}.npz", **samples)
    one = [torch.from_numpy(values[:1]) for values in samples.values()]
    path = folder / f"{PUBLISHED}.onnx"
    write_onnx(minilm.load(), tuple(one), list(samples), ["sentence_embedding"], path)
    print(f"{path}  {len(sentences)} sentences", flush=True)
