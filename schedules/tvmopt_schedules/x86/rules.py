"""The schedule rules of the x86 backend, in the order in which they are tried."""

from tvm.s_tir.dlight import ScheduleRule

from tvmopt_schedules.cpu.attention.rule import Attention
from tvmopt_schedules.cpu.convolution.conv2d_rule import Conv2d
from tvmopt_schedules.cpu.convolution.window_rule import WindowNchwc
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.matmul.batched_rule import BatchMatmul
from tvmopt_schedules.cpu.matmul.packed_rule import MatmulPacked
from tvmopt_schedules.cpu.memory.elementwise_rule import Elementwise
from tvmopt_schedules.cpu.memory.fallback_rule import Fallback
from tvmopt_schedules.cpu.memory.row_rule import Row
from tvmopt_schedules.cpu.memory.scan_rule import Scan
from tvmopt_schedules.cpu.recurrent.rule import Recurrent
from tvmopt_schedules.cpu.rules.expand_math import ExpandMath
from tvmopt_schedules.cpu.rules.predicted import Predicted
from tvmopt_schedules.cpu.winograd.rule import WinogradNchwc


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
        Scan(machine),
        Elementwise(machine),
        Row(machine),
        Fallback(machine),
    ]
    return [Predicted(ExpandMath(rule), machine) for rule in scheduling]
