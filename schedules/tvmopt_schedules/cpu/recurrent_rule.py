"""The rule for kernels of recurrent layers, which come with their loops."""

from tvm import s_tir, tirx

from tvmopt_schedules.cpu.guarded_rule import GuardedRule
from tvmopt_schedules.cpu.recurrent_kernel import RECURRENT_KERNEL


class Recurrent(GuardedRule):
    """Takes what `recurrent_kernel` made as it is."""

    name = "recurrent"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        is_made = bool(func.attrs) and RECURRENT_KERNEL in dict(func.attrs.items())
        return s_tir.Schedule(func) if is_made else None
