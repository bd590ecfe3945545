"""What of a quantized model stays in integers: what is measured decides, not what is hoped for."""

import time
from collections.abc import Mapping

from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.executor import Array
from tvmopt.compiler.sample_inputs import sample_inputs
from tvmopt.compiler.speed_check import SOURCE, SpeedCheck
from tvmopt.report import Remark


def search(attempts: Attempts, first: Attempt, given: Mapping[str, Array] | None = None) -> Attempt:
    """The package to write; `first` where nothing is quantized.

    Args:
        attempts: makes packages.
        first: with all in integers that the passes chose.
        given: inputs to measure with; by default random ones.
    """
    if not first.quantized or not attempts.request.measure:
        return first
    if first.draft.executor is None:
        message = f"not measured: this machine cannot run code for '{first.draft.target.name}'"
        first.ctx.report.remarks.append(Remark("analysis", SOURCE, "", message))
        return first
    start = time.perf_counter()
    imported = attempts.imported
    inputs = given or sample_inputs(imported.inputs, imported.input_ranges)
    attempts.progress("measure")
    chosen = SpeedCheck(attempts, attempts.in_float(), inputs).run(first)
    spent = time.perf_counter() - start
    chosen.ctx.report.seconds["search"] = spent - (0 if chosen is first else chosen.seconds)
    return chosen
