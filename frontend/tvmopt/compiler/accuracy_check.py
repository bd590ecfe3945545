"""The accuracy gate: what quantization hurts most stays float32 until the model is good enough."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import tvm

from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.evaluate import Evaluator, Infer, Verdict
from tvmopt.compiler.executor import Executor
from tvmopt.compiler.sensitivity import LayerSensitivity, Sensitivity, SwitchedModel, measure
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import GateError
from tvmopt.metrics import MaxDrop
from tvmopt.report import Accuracy, Remark

SOURCE = "accuracy"
"""What remarks name."""

_MOST_COMPILATIONS = 4
_MOST_SIMULATED = 256
"""Batches that the simulation is judged on; packages are judged on all."""

_RESTORED = "restored by the accuracy gate"

_NAMED = 4
"""Restored nodes that a message names; the report has all."""


@dataclass
class AccuracyCheck:
    """Judges packages of one model, and restores layers to float32.

    Attributes:
        attempts: makes packages.
        evaluator: the metric and the data.
    """

    attempts: Attempts
    evaluator: Evaluator
    _sensitivity: Sensitivity | None = field(default=None, init=False)

    def run(self, first: Attempt) -> Attempt:
        """The package with few layers in float32 that holds the limit, else the best one."""
        best = first
        if self.judge(first).holds:
            return first
        for layers in self._choices(first):
            kept = {node: _RESTORED for layer in layers for node in layer.nodes}
            other = self.attempts.finish({**first.ctx.kept_float, **kept})
            verdict = self.judge(other)
            if other.quantized and verdict.drop < _drop(best):
                best, other = other, best
            self.attempts.discard(other)
            if verdict.holds:
                break
        return best

    def judge(self, attempt: Attempt) -> Verdict:
        """Judges a package on all data; its report has the figures."""
        verdict = self.evaluator.verdict(self._infer(attempt), self._original)
        gate, kept = self.evaluator.gate, attempt.ctx.kept_float
        attempt.ctx.report.accuracy = Accuracy(
            metric=gate.metric,
            max_drop=str(gate.max_drop),
            restored=tuple(one for one, why in kept.items() if why == _RESTORED),
            simulated=attempt.draft.executor is None,
            **asdict(verdict),
        )
        return verdict

    def is_as_good(self, attempt: Attempt, other: Attempt) -> bool:
        """Whether a package may take the place of another one, which was judged."""
        verdict = self.judge(attempt)
        return verdict.holds or verdict.drop <= _drop(other)

    def tell(self, attempt: Attempt) -> None:
        """Adds to a report what was found."""
        report = attempt.ctx.report
        assert report.accuracy is not None
        if self._sensitivity is not None:
            report.quantization[:] = self._sensitivity.fill(report.quantization)
        kind = "analysis" if report.accuracy.holds else "missed"
        report.remarks.append(Remark(kind, SOURCE, "", accuracy_text(report.accuracy)))

    def _choices(self, first: Attempt) -> Iterator[list[LayerSensitivity]]:
        """Layers to restore, the likeliest choice first, and then more and more.

        They are restored in the order of what each does alone, the worst first. How many it takes
        is found by bisection on a simulation that is compiled once.
        """
        if first.ctx.unquantized is None:
            why = "no layer is restored: this way to quantize shows none of them alone"
            first.ctx.report.remarks.append(Remark("missed", SOURCE, "", why))
            return
        self.attempts.progress("search")
        model = SwitchedModel.of(first.ctx, self.attempts.plugins, self.attempts.imported)
        self._sensitivity = measure(model, self.evaluator.inputs(), progress=self.attempts.runs)
        layers = self._sensitivity.layers
        order = sorted(range(len(layers)), key=lambda index: layers[index].effect_db)
        most = len(order) - 1
        count = _least(most, lambda count: self._holds_simulated(model, order[count:]))
        for left in reversed(range(_MOST_COMPILATIONS)):
            if count > most:
                return
            yield [layers[index] for index in order[: count if left else most]]
            count = max(count + 1, (count + most) // 2)

    def _holds_simulated(self, model: SwitchedModel, quantized: Collection[int]) -> bool:
        def infer(layers: Collection[int]) -> Infer:
            return lambda inputs: model.run(inputs, layers)[0][self.evaluator.output]

        return self.evaluator.verdict(infer(quantized), infer(()), _MOST_SIMULATED).holds

    def _infer(self, attempt: Attempt) -> Infer:
        module = attempt.ctx.simulated or self.attempts.module
        return self._run(attempt.draft.executor or self._simulated(module))

    @cached_property
    def _original(self) -> Infer:
        executor = self.attempts.in_float.draft.executor
        return self._run(executor or self._simulated(self.attempts.module))

    def _simulated(self, module: tvm.IRModule) -> Executor:
        """Floats in place of code that does not run here."""
        attempts, imported = self.attempts, self.attempts.imported
        specs = imported.inputs, imported.outputs
        return simulation(module, attempts.request, attempts.plugins, *specs)

    def _run(self, executor: Executor) -> Infer:
        threads = default_threads()
        return lambda inputs: executor.run_lent(inputs, threads)[self.evaluator.output]


def accuracy_text(accuracy: Accuracy) -> str:
    """What was reached, in one line."""
    limit = MaxDrop.parse(accuracy.max_drop)
    against = "" if accuracy.original is None else f" against {accuracy.original:.5g} in float32"
    named, others = accuracy.restored[:_NAMED], accuracy.restored[_NAMED:]
    more = f" and {len(others)} more" if others else ""
    restored = f"; restored to float32: {', '.join(named)}{more}" if named else ""
    return (
        f"{accuracy.metric} is {accuracy.value:.5g}{against}, a drop of "
        f"{limit.text_of(accuracy.drop)} where {limit} is allowed{restored}"
    )


def raise_if_missed(accuracy: Accuracy | None, output: Path | None) -> None:
    """Ends a compilation whose package is written, but not as good as it must be.

    Raises:
        GateError: the limit is not held.
    """
    if accuracy is None or accuracy.holds:
        return
    written = f"; the best package found was written to '{output}'" if output else ""
    raise GateError(
        f"the accuracy gate is missed: {accuracy_text(accuracy)}{written}",
        "give more calibration data, another --calibrator, or a larger --max-drop",
        {"accuracy": asdict(accuracy), "package": str(output) if output else None},
    )


def _drop(attempt: Attempt) -> float:
    accuracy = attempt.ctx.report.accuracy
    assert accuracy is not None
    return math.inf if math.isnan(accuracy.drop) else accuracy.drop


def _least(most: int, holds: Callable[[int], bool]) -> int:
    """The least count from 1 up to `most` that holds; `most` is taken to hold, and 0 not to."""
    fails, held = 0, max(most, 1)
    while held - fails > 1:
        middle = (fails + held) // 2
        if holds(middle):
            held = middle
        else:
            fails = middle
    return held
