"""The schedule rules of the x86 backend, in the order in which they are tried."""

from tvm.s_tir.dlight import ScheduleRule

from tvmopt_schedules.cpu.attention_rule import Attention
from tvmopt_schedules.cpu.batch_matmul_rule import BatchMatmul
from tvmopt_schedules.cpu.conv2d_rule import Conv2d
from tvmopt_schedules.cpu.elementwise_rule import Elementwise
from tvmopt_schedules.cpu.expand_math_rule import ExpandMath
from tvmopt_schedules.cpu.fallback_rule import Fallback
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.matmul_rule import MatmulPacked
from tvmopt_schedules.cpu.predicted_rule import Predicted
from tvmopt_schedules.cpu.recurrent_rule import Recurrent
from tvmopt_schedules.cpu.row_rule import Row
from tvmopt_schedules.cpu.window_rule import WindowNchwc
from tvmopt_schedules.cpu.winograd_rule import WinogradNchwc


def rules(machine: Machine) -> list[ScheduleRule]:
    """Schedule rules for kernels on `machine`; the first that returns a schedule wins."""
    scheduling = [
        Conv2d(machine),
        WinogradNchwc(machine),
        WindowNchwc(machine),
        MatmulPacked(machine),
        Attention(machine),
        BatchMatmul(machine),
        Recurrent(machine),
        Elementwise(machine),
        Row(machine),
        Fallback(machine),
    ]
    return [Predicted(ExpandMath(rule), machine) for rule in scheduling]
