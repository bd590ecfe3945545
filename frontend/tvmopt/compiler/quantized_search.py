"""What of a quantized model stays in integers: what is measured decides, not what is hoped for."""

import time
from collections.abc import Mapping

from tvmopt.compiler.accuracy_check import AccuracyCheck
from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.evaluate import Evaluator
from tvmopt.compiler.executor import Array
from tvmopt.compiler.sample_inputs import sample_inputs
from tvmopt.compiler.speed_check import SOURCE, SpeedCheck
from tvmopt.report import Remark


def search(attempts: Attempts, given: Mapping[str, Array] | None = None) -> Attempt:
    """The package to write: accurate enough where there is a gate, and then not slower.

    Args:
        attempts: makes packages.
        given: inputs to measure with; by default random ones.

    Raises:
        UsageError: the gate names what does not exist.
        InputError: its data are empty or of the wrong form.
    """
    gate, imported = attempts.request.gate, attempts.imported
    evaluator = Evaluator(gate, attempts.plugins, imported) if gate is not None else None
    first = attempts.finish()
    if not first.quantized:
        return first
    start = time.perf_counter()
    chosen = first
    check = AccuracyCheck(attempts, evaluator) if evaluator is not None else None
    if check is not None:
        attempts.progress("accuracy")
        chosen = check.run(chosen)
    if attempts.request.measure:
        chosen = _measured(attempts, chosen, check, given)
    if check is not None and chosen.quantized:
        check.tell(chosen)
    spent = time.perf_counter() - start
    chosen.ctx.report.seconds["search"] = spent - (0 if chosen is first else chosen.seconds)
    return chosen


def _measured(
    attempts: Attempts,
    attempt: Attempt,
    check: AccuracyCheck | None,
    given: Mapping[str, Array] | None,
) -> Attempt:
    if attempt.draft.executor is None:
        message = f"not measured: this machine cannot run code for '{attempt.draft.target.name}'"
        attempt.ctx.report.remarks.append(Remark("analysis", SOURCE, "", message))
        return attempt
    attempts.progress("measure")
    imported = attempts.imported
    inputs = given or sample_inputs(imported.inputs, imported.input_ranges)
    return SpeedCheck(attempts, inputs, check).run(attempt)
