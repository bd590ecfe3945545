"""Kernels around reductions: softmax, normalizations, sums, with what is fused to them.

All passes over one row run while the row is in the level-1 cache: the kernel's last block gives the
loop over rows, and every other block is computed inside it. Two forms:

* the innermost axis is reduced (softmax and layer norm of transformers): loops over the row are
  vectorized, reductions with lane-wise partial results;
* the innermost axis is kept (softmax over channels, means over blocked layouts): a vector holds the
  same position of neighbouring rows.
"""

from math import prod
from typing import Any, ClassVar

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.blocks import annotation, is_reduction
from tvmopt_schedules.cpu.code.lanes import (
    ACCUMULATORS,
    LANES,
    REDUCE_LANES,
    match_reducer,
    vectorize_annotated,
)
from tvmopt_schedules.cpu.code.loops import (
    PARALLEL_WORK,
    Strides,
    attempt,
    contiguous_groups,
    extent,
    fuse,
    is_cheap,
    is_spatial,
    joints,
    lanes_for,
    leaf_blocks,
    selecting_vars,
    split_axes,
    work,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.rules.guarded import GuardedRule


class Row(GuardedRule):
    """One or more reductions over the same rows, with element-wise producers and consumers."""

    name: ClassVar[str] = "row"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = leaf_blocks(sch)
        reductions = [block for block in blocks if is_reduction(sch, block)]
        if any(annotation(sch, block) is not None for block in reductions):
            return None  # the rule made for it has refused; rows would be computed from parts of it
        if not reductions or any(match_reducer(sch.get(block)) is None for block in reductions):
            return None
        if any(not is_spatial(sch, block) for block in blocks if block not in reductions):
            return None
        if any(extent(sch, loop) is None for block in blocks for loop in sch.get_loops(block)):
            return None
        inline_cheap(sch)
        if not _schedule(sch, self.machine):
            return None
        return vectorize_annotated(sch)


def inline_cheap(sch: s_tir.Schedule) -> None:
    """Inlines element-wise blocks that have one reader, or cost no more than reading them back."""
    for block in reversed(leaf_blocks(sch)):
        if is_spatial(sch, block) and (len(sch.get_consumers(block)) == 1 or is_cheap(sch, block)):
            attempt(sch.compute_inline, block)


def _schedule(sch: s_tir.Schedule, machine: Machine) -> bool:
    blocks = leaf_blocks(sch)
    total = sum(work(sch, block) for block in blocks)
    *before, last = blocks
    first = next(block for block in blocks if is_reduction(sch, block))
    across = _goes_across(sch, first, machine.lanes)
    loops = list(sch.get_loops(last))
    selecting = _row_vars(sch, last)
    rows = [loop for loop in loops if sch.get(loop).loop_var in selecting]
    inner = [loop for loop in loops if sch.get(loop).loop_var not in selecting]
    if not rows:  # the whole tensor is one row
        for block in blocks:
            _vectorize_inside(sch, block, 0, machine)
        return True
    if inner:
        sch.reorder(*rows, *inner)
    if across:
        *outer, vector = [fuse(sch, group) for group in _common_groups(sch, blocks, rows)]
    else:
        outer, vector = rows, None
    nest: list[LoopRV] = [fuse(sch, outer)] if outer else []
    nest += [vector] if vector is not None else []
    for block in reversed(before):
        if not attempt(sch.compute_at, block, nest[-1], preserve_unit_loops=True):
            return False
    if vector is not None:
        _vectorize_across(sch, vector, leaf_blocks_inside(sch, vector), machine)
    else:
        for block in sch.get_child_blocks(nest[-1]):
            _vectorize_inside(sch, block, len(nest), machine)
    if total >= PARALLEL_WORK:
        attempt(sch.parallel, nest[0])
    return True


def _common_groups(
    sch: s_tir.Schedule, blocks: list[SBlockRV], rows: list[LoopRV]
) -> list[list[LoopRV]]:
    """Runs of the last block's row loops that are one run in every block."""
    *before, last = blocks
    joined = joints(sch, last, rows)
    for block in before:
        same = split_axes(sch, block)[0]
        if not is_reduction(sch, block):
            continue
        if len(same) != len(rows):
            joined = [False] * len(rows)
            break
        joined = [a and b for a, b in zip(joined, joints(sch, block, same), strict=True)]
    groups: list[list[LoopRV]] = []
    for loop, joins in zip(rows, joined, strict=True):
        if joins:
            groups[-1].append(loop)
        else:
            groups.append([loop])
    return groups


def leaf_blocks_inside(sch: s_tir.Schedule, loop: LoopRV) -> list[SBlockRV]:
    """The blocks under a loop, in order of execution."""
    return list(sch.get_child_blocks(loop))


def _goes_across(sch: s_tir.Schedule, block: SBlockRV, lanes: int) -> bool:
    """Whether the lanes of a vector should be neighbouring rows, not elements of one row.

    So where neighbouring elements of the tensor belong to different rows, and where a row is too
    short to fill half a vector.
    """
    strides = Strides(sch, block)
    free, reduced = split_axes(sch, block)
    length = prod(extent(sch, loop) or 1 for loop in reduced)
    rows = prod(extent(sch, loop) or 1 for loop in free)
    if length < lanes // 2 and rows >= lanes:
        return True
    for loop in reversed(reduced):
        if extent(sch, loop) != 1 and 1 in strides.along(loop):
            return False
    return any(1 in strides.along(loop) for loop in free if extent(sch, loop) != 1)


def _row_vars(sch: s_tir.Schedule, last: SBlockRV) -> set[Any]:
    """Variables of the last block's loops that select the row: they index a reduction's result."""
    if is_reduction(sch, last):
        return {sch.get(loop).loop_var for loop in split_axes(sch, last)[0]}
    results: set[Any] = set()
    for block in leaf_blocks(sch):
        if is_reduction(sch, block):
            results |= {region.source for region in sch.get(block).writes}
    return selecting_vars(sch, last, results)


def _vectorize_inside(sch: s_tir.Schedule, block: SBlockRV, depth: int, machine: Machine) -> None:
    """Vectorizes a block along the row; `depth` loops around it select the row."""
    lanes = lanes_for(sch, block, machine.lanes)
    loops = list(sch.get_loops(block))[depth:]
    if not loops:
        return
    if is_reduction(sch, block):
        free, reduced = split_axes(sch, block)
        if len(free) > depth:
            sch.reorder(*free[depth:], *reduced)
        fused = [fuse(sch, group) for group in contiguous_groups(sch, block, reduced)]
        sch.annotate(fused[0], REDUCE_LANES, lanes)
        return
    inner = fuse(sch, contiguous_groups(sch, block, loops)[-1])
    sch.annotate(inner, LANES, lanes)


def _vectorize_across(
    sch: s_tir.Schedule, vector: LoopRV, blocks: list[SBlockRV], machine: Machine
) -> None:
    """Makes neighbouring rows the lanes of a vector in every block inside the loop."""
    lanes = min(lanes_for(sch, block, machine.lanes) for block in blocks)
    for block in blocks:
        if is_reduction(sch, block):
            _, reduced = split_axes(sch, block)
            sch.decompose_reduction(block, reduced[0])
    size = extent(sch, vector)
    assert size is not None
    sch.annotate(vector, LANES, lanes * max(1, min(ACCUMULATORS, size // lanes)))


def reduce_rows(sch: s_tir.Schedule, block: SBlockRV, machine: Machine) -> None:
    """Schedules a reduction that stands alone."""
    is_big = work(sch, block) >= PARALLEL_WORK
    across = _goes_across(sch, block, machine.lanes)
    free, reduced = split_axes(sch, block)
    if free:
        sch.reorder(*free, *reduced)
    if not across:
        rows = fuse(sch, free) if free else None
        _vectorize_inside(sch, block, 1 if free else 0, machine)
        if rows is not None and is_big:
            attempt(sch.parallel, rows)
        return
    *outer, vector = [fuse(sch, group) for group in _common_groups(sch, [block], free)]
    rows = fuse(sch, outer) if outer else vector
    _vectorize_across(sch, vector, [block], machine)
    if is_big:
        attempt(sch.parallel, rows)
