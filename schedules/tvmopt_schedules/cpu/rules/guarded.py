"""A schedule rule that steps aside instead of failing."""

from typing import ClassVar

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target

from tvmopt_schedules.cpu.code.loops import NOT_LEGAL
from tvmopt_schedules.cpu.machine import Machine


class GuardedRule(ScheduleRule):
    """Returns None where a schedule primitive refuses, so that the next rule is tried."""

    name: ClassVar[str]

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001 - the signature of TVM's rules
    ) -> s_tir.Schedule | None:
        try:
            return self.schedule(func)
        except NOT_LEGAL:
            return None

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """The scheduled kernel; None where the rule is not made for it."""
        raise NotImplementedError
