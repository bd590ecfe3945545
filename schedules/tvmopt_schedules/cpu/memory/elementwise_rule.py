"""Kernels that only map elements: one pass over memory, flat loops, whole vectors."""

from math import lcm, prod
from typing import ClassVar

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.conditions import breaks, conditions, divisors, period
from tvmopt_schedules.cpu.code.lanes import BREAKS, LANES, vectorize_annotated
from tvmopt_schedules.cpu.code.loops import (
    PARALLEL_WORK,
    Strides,
    attempt,
    contiguous_groups,
    extent,
    fuse,
    is_spatial,
    lanes_for,
    largest_divisor,
    leaf_blocks,
    work,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.rules.guarded import GuardedRule

CACHE_LINE_FLOATS = 16
MOST_CUTS = 8
"""Each cut brings another copy of the loop body."""


class Elementwise(GuardedRule):
    """Chains of element-wise operators, broadcasts, slices, transposes: no axis is reduced."""

    name: ClassVar[str] = "elementwise"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = leaf_blocks(sch)
        if not blocks or not all(is_spatial(sch, block) for block in blocks):
            return None
        if any(extent(sch, loop) is None for block in blocks for loop in sch.get_loops(block)):
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
    """Schedules a data-parallel block: flat loops, whole vectors, work spread over cores."""
    loops = list(sch.get_loops(block))
    if not loops:
        return
    is_big = work(sch, block) >= PARALLEL_WORK
    loops = [part for loop in loops[:-1] for part in split_blocks(sch, block, loop)] + loops[-1:]
    *outer, inner = [fuse(sch, group) for group in contiguous_groups(sch, block, loops)]
    length = period(sch, block, inner)
    if length is not None and length >= machine.lanes // 2:
        around, inner = sch.split(inner, [None, length])
        outer.append(around)
    lanes = lanes_for(sch, block, machine.lanes)
    if outer and joins_short(sch, block, outer[-1], inner, lanes):
        lanes = lcm(lanes, extent(sch, inner) or 1)
        inner = sch.fuse(outer.pop(), inner)
    outer = tile_transpose(sch, block, outer, inner)
    sch.annotate(inner, LANES, lanes)
    cuts = breaks(sch, block, inner)
    if 0 < len(cuts) <= MOST_CUTS:
        sch.annotate(inner, BREAKS, cuts)
    cut = cut_outer(sch, block, outer)
    if is_big:
        spread = outer if cut is None else outer[:cut]
        if prod(extent(sch, loop) or 1 for loop in spread) > 1:
            attempt(sch.parallel, fuse(sch, spread))
        else:
            attempt(sch.parallel, inner if cut is None else outer[cut])


def split_blocks(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> list[LoopRV]:
    """Splits a loop that walks through blocks, as `x[c // 16, y, c % 16]` does.

    Inside a block all strides are constants, and loops can be put in the order of memory. A last
    block that is not full has a predicate.
    """
    found = divisors(sch, block, loop)
    length = min(found, default=0)
    if not 1 < length < (extent(sch, loop) or 0) or any(one % length for one in found):
        return [loop]
    return list(sch.split(loop, [None, length]))


def joins_short(
    sch: s_tir.Schedule, block: SBlockRV, outer: LoopRV, inner: LoopRV, lanes: int
) -> bool:
    """Whether a loop that is too short for a vector should be fused with the one around it.

    `y[i, c] = x[i, c] * s[c]` with three channels repeats after 3 * lanes elements: a vector of
    that many has the same `s` in every iteration, which is loaded once.
    """
    size = extent(sch, inner) or 1
    if not 1 < size < lanes // 2:
        return False
    deciding = conditions(sch, block).deciding
    if any(sch.get(loop).loop_var in deciding for loop in (outer, inner)):
        return False
    strides = Strides(sch, block)
    written = [strides.along(loop)[-1] for loop in (outer, inner)]
    return written == [size, 1] and (extent(sch, outer) or 1) * size >= lanes


def cut_outer(sch: s_tir.Schedule, block: SBlockRV, outer: list[LoopRV]) -> int | None:
    """Cuts the first loop that decides a condition, as in a concatenation over channels.

    Returns:
        Its index; None where there is none, or where the pieces would be too many.
    """
    for index, loop in enumerate(outer):
        cuts = breaks(sch, block, loop)
        if cuts:
            if len(cuts) > MOST_CUTS:
                return None
            sch.annotate(loop, BREAKS, cuts)
            return index
    return None


def tile_transpose(
    sch: s_tir.Schedule, block: SBlockRV, outer: list[LoopRV], inner: LoopRV
) -> list[LoopRV]:
    """Walks a transposed input in square tiles, so that each cache line is read once.

    Returns:
        The loops outside the tile.
    """
    strides = Strides(sch, block)
    if all(stride in (0, 1) for stride in strides.along(inner)):
        return outer
    across = [
        index
        for index, loop in enumerate(outer)
        if any(
            there == 1 and here not in (0, 1)
            for there, here in zip(strides.along(loop), strides.along(inner), strict=True)
        )
    ]
    if not across:
        return outer
    index = across[-1]
    size = extent(sch, outer[index]) or 1
    tile = largest_divisor(size, CACHE_LINE_FLOATS)
    if tile < min(4, size):
        return outer
    around, inside = sch.split(outer[index], [None, tile])
    # Vectors of `inner` end up inside `inside`: the tile is one vector wide.
    sch.reorder(*outer[index + 1 :], inner, inside)
    return [*outer[:index], around, *outer[index + 1 :]]
