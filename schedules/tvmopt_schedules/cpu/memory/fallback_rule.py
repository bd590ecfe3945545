"""The schedule of kernels that no other rule takes: the best loops that are certainly legal."""

from typing import ClassVar

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import SBlockRV
from tvm.target import Target

from tvmopt_schedules.cpu.code.blocks import is_reduction
from tvmopt_schedules.cpu.code.lanes import match_reducer, vectorize_annotated
from tvmopt_schedules.cpu.code.loops import (
    NOT_LEGAL,
    PARALLEL_WORK,
    attempt,
    extent,
    fuse,
    is_spatial,
    leading_free_loops,
    leaf_blocks,
    work,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.memory.elementwise_rule import map_elements
from tvmopt_schedules.cpu.memory.row_rule import inline_cheap, reduce_rows


class Fallback(ScheduleRule):
    """Takes any kernel: each block by itself, in vectors and in parallel where that is legal."""

    name: ClassVar[str] = "generic"
    fallback: ClassVar[bool] = True

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001 - the signature of TVM's rules
    ) -> s_tir.Schedule:
        for attempted in (self._schedule_blocks, self._spread_blocks):
            try:
                return attempted(func)
            except NOT_LEGAL:
                continue
        return s_tir.Schedule(func)

    def _schedule_blocks(self, func: tirx.PrimFunc) -> s_tir.Schedule:
        sch = s_tir.Schedule(func)
        blocks = leaf_blocks(sch)
        if not blocks:
            return sch
        inline_cheap(sch)
        for block in leaf_blocks(sch):
            self._schedule_block(sch, block)
        return vectorize_annotated(sch)

    def _schedule_block(self, sch: s_tir.Schedule, block: SBlockRV) -> None:
        if any(extent(sch, loop) is None for loop in sch.get_loops(block)):
            spread(sch, block)
        elif is_spatial(sch, block):
            map_elements(sch, block, self.machine)
        elif is_reduction(sch, block) and match_reducer(sch.get(block)) is not None:
            reduce_rows(sch, block, self.machine)
        else:
            spread(sch, block)

    def _spread_blocks(self, func: tirx.PrimFunc) -> s_tir.Schedule:
        sch = s_tir.Schedule(func)
        for block in leaf_blocks(sch):
            spread(sch, block)
        return sch


def spread(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Spreads the outermost data-parallel loops of a block over the cores, if there is enough."""
    loops = leading_free_loops(sch, block)
    if loops and work(sch, block) >= PARALLEL_WORK:
        attempt(sch.parallel, fuse(sch, loops))
