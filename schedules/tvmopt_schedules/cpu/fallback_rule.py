"""The schedule of kernels that no other rule takes: the best loops that are certainly legal."""

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError
from tvm.target import Target

from tvmopt_schedules.cpu.blocks import is_reduction
from tvmopt_schedules.cpu.machine import Machine

_realize = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")

PARALLEL_THRESHOLD = 32 * 1024
"""Iterations of the loop nest under which waking the thread pool costs more than it brings."""


class Fallback(ScheduleRule):
    """Takes any kernel, and gives it the best loops that are certainly legal."""

    name = "generic"
    fallback = True

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001
    ) -> s_tir.Schedule:
        sch = s_tir.Schedule(func)
        try:
            blocks = leaf_blocks(sch)
        except ScheduleError:
            return sch
        for block in blocks:
            attempt(sch.compute_inline, block)
        for block in leaf_blocks(sch):
            self._schedule_block(sch, block)
        return sch

    def _schedule_block(self, sch: s_tir.Schedule, block: SBlockRV) -> None:
        loops = spatial_prefix(sch, block)
        if not loops:
            return
        reduces = is_reduction(sch, block)
        work = 1
        for loop in sch.get_loops(block):
            extent = sch.get(loop).extent
            work *= int(extent) if isinstance(extent, tirx.IntImm) else PARALLEL_THRESHOLD
        if not reduces:
            inner = loops.pop()
            extent = sch.get(inner).extent
            if isinstance(extent, tirx.IntImm) and int(extent) % self.machine.lanes == 0:
                inner = sch.split(inner, [None, self.machine.lanes])[1]
                attempt(sch.vectorize, inner)
        if loops and work >= PARALLEL_THRESHOLD:
            outer = sch.fuse(*loops) if len(loops) > 1 else loops[0]
            attempt(sch.parallel, outer)


def attempt(primitive: object, *args: object) -> bool:
    """Applies a schedule primitive; False where it is not legal, with the schedule unchanged."""
    try:
        primitive(*args)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
    except (ScheduleError, RuntimeError, ValueError):
        return False
    return True


def leaf_blocks(sch: s_tir.Schedule) -> list[SBlockRV]:
    """The blocks under the root in order of execution; none in a function without blocks."""
    try:
        return list(sch.get_child_blocks(sch.get_sblock("root")))
    except ScheduleError:
        return []


def spatial_prefix(sch: s_tir.Schedule, block: SBlockRV) -> list[LoopRV]:
    """The outermost loops of the block that bind nothing but data-parallel axes."""
    realize = _realize(sch, block)
    data_parallel: set[tirx.Var] = set()
    others: set[tirx.Var] = set()
    for value, it in zip(realize.iter_values, sch.get(block).iter_vars, strict=True):
        used = variables(value)
        (data_parallel if it.iter_type == tirx.IterVar.DataPar else others).update(used)
    found: list[LoopRV] = []
    for loop in sch.get_loops(block):
        if sch.get(loop).loop_var not in data_parallel - others:
            break
        found.append(loop)
    return found


def variables(expr: tvm.ir.Expr) -> set[tirx.Var]:
    """The variables that occur in the expression."""
    found: set[tirx.Var] = set()
    tvm_ffi.structural_walk(expr, [(tirx.Var, lambda var: found.add(var))])
    return found
