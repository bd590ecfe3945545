"""What a convolution asks for ahead: weights, pixels, and what its epilogue adds."""

from fractions import Fraction
from math import ceil, prod
from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.prefetch import LINE_BYTES, at, loads_of

_WEIGHT_AXES = 6


def next_weights(
    sch: s_tir.Schedule,
    update: SBlockRV,
    tiles: list[LoopRV],
    reduction: list[LoopRV],
    tile: list[LoopRV],
    blocks: int,
) -> dict[LoopRV, list[Any]]:
    """A part of the weights of the next tile of channels in each step of the reduction.

    All tiles of pixels together ask for them once. Memory brings no more than a line in eight or so
    cycles: a tile that asks for a line of each block in each step waits for it, which made the
    late layers of ResNet-50 15 to 25 % slower than their arithmetic. The last tile asks for what
    lies behind its weights, perhaps the next layer's.

    Args:
        sch: the schedule, at its end.
        update: the block that multiplies.
        tiles: the loops over tiles of pixels, which all multiply with the same weights.
        reduction: the loops of the reduction, inside of them, two or more.
        tile: the loops inside of the reduction.
        blocks: blocks of output channels in a tile.

    Returns:
        Loads, by the loop whose iterations ask for them.
    """
    *around, step = reduction
    weight = _operands(sch, update)[1]
    place: Any = tirx.const(0, "int64")
    count = 1
    for loop in [*tiles, *around]:
        extent = int(sch.get(loop).extent)
        place = place * extent + sch.get(loop).loop_var
        count *= extent
    block_lines = prod(int(dim) for dim in weight.source.shape[1:]) * 4 // LINE_BYTES
    share = Fraction(blocks * block_lines, count)
    first, *_ = at(weight, _places(sch, [*reduction, *tile], {})).indices
    zeros = [tirx.const(0, "int64")] * (len(weight.source.shape) - 2)

    def load(line: Any) -> Any:
        return tirx.BufferLoad(weight.source, [first + blocks, *zeros, line * LINE_BYTES // 4])

    line = place * share.numerator // share.denominator
    lines = ceil(share)
    if lines == 1:
        return {around[-1]: [load(line)]}
    # One line at a time: eight at once cost the layers on 7 x 7 5 %. In the innermost loop nothing
    # but a shift is to be computed: a division there took 10 % of all AVX2 layers.
    steps = int(sch.get(step).extent)
    each = ceil(Fraction(lines, steps))
    within = sch.get(step).loop_var * (lines if each == 1 else each * steps) // steps
    return {step: [load(line + within + number) for number in range(each)]}


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
    data, _ = _operands(sch, update)
    pixel_bytes = int(data.source.shape[-1]) * data.source.dtype.itemsize
    step = max(1, LINE_BYTES // pixel_bytes)
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
    vectors = prod(sizes)
    found: list[Any] = []
    for load in loads_of(sch, last):
        shape = [int(dim) for dim in load.source.shape]
        item_bytes = load.source.dtype.itemsize
        size_bytes = prod(shape) * item_bytes
        if size_bytes < least_bytes or load.source.scope() != "global" or _is_local(sch, load):
            continue
        # Neighbouring pixels share a line; a float's vector counts as one of its own.
        every = max(1, 4 // item_bytes)
        share = -(-vectors // (every * int(sch.get(steps).extent)))
        for number in range(share):
            line = tirx.min((sch.get(steps).loop_var * share + number) * every, vectors - 1)
            places: dict[Any, Any] = {sch.get(lane).loop_var: sch.get(lane).min}
            for loop, size in zip(reversed(tile), reversed(sizes), strict=True):
                places[sch.get(loop).loop_var] = line % size
                line = line // size
            found.append(at(load, places))
    return found


def _operands(sch: s_tir.Schedule, update: SBlockRV) -> tuple[Any, Any]:
    """A load of the image and one of the weights, by the block that multiplies them."""
    loads = loads_of(sch, update)
    first = next(at for at, load in enumerate(loads) if len(load.source.shape) == _WEIGHT_AXES)
    return loads[first - 1], loads[first]


def _is_local(sch: s_tir.Schedule, load: Any) -> bool:
    """Whether the load is of what the kernel computed itself."""
    root = sch.get(sch.get_sblock("root"))
    return any(load.source.same_as(buffer) for buffer in root.alloc_buffers)


def _places(sch: s_tir.Schedule, tile: list[LoopRV], given: dict[LoopRV, Any]) -> dict[Any, Any]:
    places = {sch.get(loop).loop_var: sch.get(loop).min for loop in tile}
    for loop, value in given.items():
        places[sch.get(loop).loop_var] = sch.get(loop).min + value
    return places
