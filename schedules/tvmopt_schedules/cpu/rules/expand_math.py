"""Any schedule rule, with the transcendentals of its kernels turned into polynomials."""

from tvm import IRModule, s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target

from tvmopt_schedules.cpu.code.fast_math import expand_math


class ExpandMath(ScheduleRule):
    """Applies another rule, then expands `exp`, `erf`, `tanh` ... in the kernel that it scheduled.

    Last, since the expansion binds variables, which inlining would multiply.
    """

    def __init__(self, rule: ScheduleRule) -> None:
        self.rule = rule
        self.name: str = rule.name
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
        expanded = expand_math(kernel)
        if expanded.same_as(kernel):
            return scheduled
        return s_tir.Schedule(IRModule({"main": expanded}))
