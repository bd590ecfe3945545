"""Any schedule rule, with a prediction for the kernels that the rule itself makes none for."""

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target

from tvmopt_schedules.cpu.cost import pass_cycles
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.prediction import (
    Prediction,
    operations,
    parallel_pieces,
    predict,
    prediction_of,
    touched_bytes,
)


class Predicted(ScheduleRule):
    """Applies another rule and counts its kernel as one pass over its operands.

    A rule that knows better attaches its own prediction, which is kept.
    """

    def __init__(self, rule: ScheduleRule, machine: Machine) -> None:
        self.rule = rule
        self.machine = machine
        self.name: str = getattr(rule, "name", type(rule).__name__)
        self.fallback = bool(getattr(rule, "fallback", False))

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001 - the signature of TVM's rules
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        scheduled = self.rule.apply(func, target, tunable)
        if tunable or not isinstance(scheduled, s_tir.Schedule):
            return scheduled
        kernel = scheduled.mod["main"]
        if prediction_of(kernel) is not None:
            return scheduled
        return predict(scheduled, _one_pass(func, kernel, self.machine))


def _one_pass(before: tirx.PrimFunc, kernel: tirx.PrimFunc, machine: Machine) -> Prediction:
    """The longer of moving all operands once and of the arithmetic, a vector at a time."""
    cycles = pass_cycles(machine, sum(touched_bytes(before)), operations(kernel))
    return Prediction(cycles, parallel_pieces(kernel))
