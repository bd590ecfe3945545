"""Kernels that only map elements: one pass over memory, flat loops, whole vectors."""

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import SBlockRV
from tvm.target import Target

from tvmopt_schedules.cpu.lanes import LANES, vectorize_annotated
from tvmopt_schedules.cpu.loops import (
    PARALLEL_WORK,
    attempt,
    contiguous_groups,
    extent,
    fuse,
    is_spatial,
    lanes_for,
    leaf_blocks,
    work,
)
from tvmopt_schedules.cpu.machine import Machine


class Elementwise(ScheduleRule):
    """Element-wise chains with broadcasts, casts, slices, transposes: every axis is data-parallel."""

    name = "elementwise"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001
    ) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = leaf_blocks(sch)
        if not blocks or not all(is_spatial(sch, block) for block in blocks):
            return None
        inline_all(sch)
        for block in leaf_blocks(sch):
            map_elements(sch, block, self.machine)
        return vectorize_annotated(sch)


def inline_all(sch: s_tir.Schedule) -> None:
    """Inlines every block whose result stays inside the kernel, where that is legal."""
    for block in leaf_blocks(sch):
        attempt(sch.compute_inline, block)


def map_elements(sch: s_tir.Schedule, block: SBlockRV, machine: Machine) -> None:
    """Schedules a data-parallel block: flattens its loops, vectorizes the innermost, spreads work."""
    loops = list(sch.get_loops(block))
    if not loops or any(extent(sch, loop) is None for loop in loops):
        return
    is_big = work(sch, block) >= PARALLEL_WORK
    groups = contiguous_groups(sch, block, loops)
    fused = [fuse(sch, group) for group in groups]
    *outer, inner = fused
    sch.annotate(inner, LANES, lanes_for(sch, block, machine.lanes))
    if is_big:
        spread = fuse(sch, outer) if outer else inner
        attempt(sch.parallel, spread)
