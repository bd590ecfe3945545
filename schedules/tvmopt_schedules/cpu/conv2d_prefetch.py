"""What a convolution asks for ahead: weights, pixels, and what its epilogue adds."""

from math import prod
from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.prefetch import LINE_BYTES, at, loads_of


def next_weights(
    sch: s_tir.Schedule, update: SBlockRV, tile: list[LoopRV], block: LoopRV
) -> list[Any]:
    """In each step of the reduction, the weights of the same step of the next tile of channels.

    That hides the way from beyond the level-2 cache. The last tile asks for its own weights again:
    they are there already.

    Args:
        sch: the schedule, at its end.
        update: the block that multiplies.
        tile: the loops inside of the reduction.
        block: the one of them over blocks of output channels.
    """
    weight = loads_of(sch, update)[-1]
    count = int(sch.get(block).extent)
    last = int(weight.source.shape[0]) - 1
    found: list[Any] = []
    for number in range(count):
        first, *rest = at(weight, _places(sch, tile, {block: number})).indices
        found.append(tirx.BufferLoad(weight.source, [tirx.min(first + count, last), *rest]))
    return found


def next_pixels(
    sch: s_tir.Schedule, update: SBlockRV, tile: list[LoopRV], outer: LoopRV, pixel: LoopRV
) -> list[Any]:
    """For each block of input channels, the same block of the next tile's pixels.

    A tile reads a few lines of each block of channels, which lie far apart: nothing that hardware
    would follow. It takes a third off a 1x1 convolution on 256 x 56 x 56.

    Args:
        sch: the schedule, at its end.
        update: the block that multiplies.
        tile: the loops inside of the one over blocks of input channels.
        outer: the loop over tiles of pixels.
        pixel: the loop of `tile` over pixels.
    """
    data = loads_of(sch, update)[-2]
    step = max(1, LINE_BYTES // (int(data.source.shape[-1]) * 4))
    following = sch.get(outer).loop_var + 1
    return [
        at(data, {**_places(sch, tile, {pixel: number}), sch.get(outer).loop_var: following})
        for number in range(0, int(sch.get(pixel).extent), step)
    ]


def epilogue_operands(
    sch: s_tir.Schedule, last: SBlockRV, tile: list[LoopRV], steps: LoopRV, least_bytes: int
) -> list[Any]:
    """What the epilogue of this tile adds, such as a residual, a part of it in each step.

    Args:
        sch: the schedule, at its end.
        last: the block with the epilogue.
        tile: its loops over the tile, without the lanes.
        steps: the loop of the reduction whose iterations ask.
        least_bytes: operands that are smaller are near already.
    """
    lane = sch.get_loops(last)[-1]
    sizes = [int(sch.get(loop).extent) for loop in tile]
    lines = prod(sizes)
    share = -(-lines // int(sch.get(steps).extent))
    found: list[Any] = []
    for load in loads_of(sch, last):
        shape = [int(dim) for dim in load.source.shape]
        if prod(shape) * 4 < least_bytes or load.source.scope() != "global" or _is_local(sch, load):
            continue
        for number in range(share):
            line = tirx.min(sch.get(steps).loop_var * share + number, lines - 1)
            places: dict[Any, Any] = {sch.get(lane).loop_var: sch.get(lane).min}
            for loop, size in zip(reversed(tile), reversed(sizes), strict=True):
                places[sch.get(loop).loop_var] = line % size
                line = line // size
            found.append(at(load, places))
    return found


def _is_local(sch: s_tir.Schedule, load: Any) -> bool:
    """Whether the load is of what the kernel computed itself."""
    root = sch.get(sch.get_sblock("root"))
    return any(load.source.same_as(buffer) for buffer in root.alloc_buffers)


def _places(sch: s_tir.Schedule, tile: list[LoopRV], given: dict[LoopRV, Any]) -> dict[Any, Any]:
    places = {sch.get(loop).loop_var: sch.get(loop).min for loop in tile}
    for loop, value in given.items():
        places[sch.get(loop).loop_var] = sch.get(loop).min + value
    return places
