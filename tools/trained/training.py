"""Trains a classifier: AdamW, one cycle of the learning rate, one thread, a fixed seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trained.dataset import Samples

JUDGED_AT_ONCE = 256  # samples


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        learning_rate: the highest of the cycle.
        augment: changes the inputs of a batch.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    augment: Callable[[Tensor], Tensor] | None = None


def train(network: nn.Module, samples: Samples, schedule: Schedule) -> None:
    """Minimizes the cross entropy of the first output."""
    inputs = [torch.from_numpy(values) for values in samples.inputs.values()]
    labels = torch.from_numpy(samples.labels)
    adam = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
    steps = schedule.epochs * (len(samples) // schedule.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, max_lr=schedule.learning_rate, total_steps=steps
    )
    network.train()
    for _ in range(schedule.epochs):
        order = torch.randperm(len(samples))
        for start in range(0, len(order) - schedule.batch + 1, schedule.batch):
            chosen = order[start : start + schedule.batch]
            batch = [values[chosen] for values in inputs]
            if schedule.augment:
                batch = [schedule.augment(values) for values in batch]
            adam.zero_grad()
            logits = first_output(network(*batch))
            nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adam.step()
            cycle.step()
    network.eval()


def accuracy(network: nn.Module, samples: Samples) -> float:
    """The part of the samples whose label has the largest logit."""
    right = 0
    for start in range(0, len(samples), JUDGED_AT_ONCE):
        part = samples.taken(np.arange(start, min(start + JUDGED_AT_ONCE, len(samples))))
        with torch.no_grad():
            logits = first_output(network(*map(torch.from_numpy, part.inputs.values())))
        right += int((logits.argmax(1).numpy() == part.labels).sum())
    return right / len(samples)


def first_output(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
