"""The rule for kernels of recurrent layers, which come with their loops."""

from tvm import s_tir, tirx

from tvmopt_schedules.cpu.recurrent.kernel import RECURRENT_KERNEL
from tvmopt_schedules.cpu.rules.guarded import GuardedRule


class Recurrent(GuardedRule):
    """Takes what `recurrent_kernel` made as it is."""

    name = "recurrent"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        is_made = bool(func.attrs) and RECURRENT_KERNEL in dict(func.attrs.items())
        return s_tir.Schedule(func) if is_made else None
