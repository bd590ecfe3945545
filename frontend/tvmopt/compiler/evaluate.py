"""Models judged by a metric on data with labels, batch by batch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tvmopt.calibration import CalibrationSource
from tvmopt.compiler.calibration_data import Batches
from tvmopt.compiler.executor import Array
from tvmopt.compiler.importer import ImportedModel
from tvmopt.errors import InputError, UsageError, unknown_name
from tvmopt.metrics import AccuracyGate, Metric
from tvmopt.plugins import Plugins

Infer = Callable[[Mapping[str, Array]], Array]
"""Runs a model on one batch of inputs; the output that is judged."""


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a model.

    Attributes:
        original: the metric of the model in float32; None where outputs are compared with its own.
        value: the metric of the model.
        drop: how much worse that is, as a share or in points as the limit is.
        holds: whether that is within the limit.
        batches: that were used.
    """

    original: float | None
    value: float
    drop: float
    holds: bool
    batches: int


class Evaluator:
    """Judges models against one original.

    Args:
        gate: the metric, the data and the limit.
        plugins: with metrics and data sets.
        imported: the original's inputs and outputs.

    Raises:
        UsageError: an unknown metric, option, output, file or data set.
    """

    def __init__(self, gate: AccuracyGate, plugins: Plugins, imported: ImportedModel) -> None:
        self.gate = gate
        self._new_metric = plugins.metric(gate.metric)
        metric = self._new_metric()
        metric.drop(metric.perfect, relative=gate.max_drop.relative)  # it may have no such drop
        names = [spec.name for spec in imported.outputs]
        if metric.output and metric.output not in names:
            raise unknown_name("output of the model", metric.output, names)
        self.output = names.index(metric.output) if metric.output else 0
        self._inputs = [spec.name for spec in imported.inputs]
        source = CalibrationSource(gate.data)
        self._batches = Batches.open(source, plugins, imported.inputs, with_labels=True)
        self._originals: dict[int | None, float] = {}

    def verdict(self, model: Infer, original: Infer, most: int | None = None) -> Verdict:
        """Judges a model.

        Args:
            model: what is judged.
            original: the model in float32.
            most: batches at most; all of the data by default.

        Raises:
            InputError: the data are empty, of the wrong form, or without the labels it needs.
        """
        needs_labels = self._new_metric().needs_labels
        if needs_labels and most not in self._originals:
            self._originals[most] = self._measure(original, original, most)[0].value()
        metric, batches = self._measure(model, original, most)
        reached = self._originals[most] if needs_labels else metric.perfect
        limit = self.gate.max_drop
        drop = metric.drop(reached, relative=limit.relative)
        value = metric.value()
        shown = reached if needs_labels else None
        return Verdict(shown, value, drop, drop <= limit.most, batches)

    def inputs(self) -> Iterator[dict[str, Array]]:
        """The data without labels."""
        for batch in self._batches:
            yield {name: batch[name] for name in self._inputs}

    def _measure(self, model: Infer, original: Infer, most: int | None) -> tuple[Metric, int]:
        metric, count = self._new_metric(), 0
        for batch in islice(self._batches, most):
            inputs = {name: batch[name] for name in self._inputs}
            if metric.needs_labels:
                reference = self._labels(metric, batch)
            else:
                reference = np.array(original(inputs))  # the same memory may hold the other's
            try:
                metric.update(model(inputs), reference)
            except ValueError as error:
                raise InputError(f"metric '{metric.name}': {error}") from None
            count += 1
        return metric, count

    def _labels(self, metric: Metric, batch: Mapping[str, Array]) -> Array:
        found = [name for name in batch if name not in self._inputs]
        data = f"the data '{self.gate.data}'"
        if not found:
            message = f"metric '{metric.name}' judges by labels, and {data} have none"
            raise InputError(message, "numpy.savez('eval.npz', INPUT=inputs, labels=labels)")
        if metric.labels and metric.labels not in found:
            error = unknown_name(f"array of {data}", metric.labels, found)
            raise InputError(str(error), error.hint)
        if not metric.labels and len(found) > 1:
            message = f"{data} have several arrays that are no inputs: {', '.join(found)}"
            raise UsageError(message, f"name the labels: --metric {metric.name}:labels={found[0]}")
        return batch[metric.labels or found[0]]
