"""The schedule of convolutions on blocked channels, with everything that follows them."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.blocks import Kernel, find_anchor
from tvmopt_schedules.cpu.code.loops import (
    PARALLEL_FLOPS,
    PARALLEL_WORK,
    transcendental_cycles,
    work,
)
from tvmopt_schedules.cpu.code.prefetch import prefetch
from tvmopt_schedules.cpu.code.quads import has_octs, machine_of_kernel
from tvmopt_schedules.cpu.compute.conv2d import CONV2D, CONV2D_PIXELS, GROUPS
from tvmopt_schedules.cpu.convolution.blocked_epilogue import (
    close_kernel,
    schedule_moves,
    store_tile,
)
from tvmopt_schedules.cpu.convolution.conv2d_prefetch import (
    epilogue_operands,
    next_pixels,
    next_weights,
)
from tvmopt_schedules.cpu.convolution.conv2d_tile import ConvShape, conv_cycles, division
from tvmopt_schedules.cpu.cost import once_cycles
from tvmopt_schedules.cpu.rules.guarded import GuardedRule
from tvmopt_schedules.prediction import Prediction, operand_bytes, parallel_pieces, predict

PARTITION = "pragma_loop_partition_hint"

FAR = 8
"""Weights larger than this part of the level-2 cache are not in it when their layer begins.

Asking for them ahead takes 5 % off ResNet-18 and 8 % off ResNet-50.
"""


@dataclass(frozen=True)
class _Loops:
    """The loops of a tile's reduction.

    Attributes:
        reduction: over blocks of input channels, the window, and the channels of a block.
        block: over the tile's blocks of output channels.
        pixel: over its pixels.
        tile: all loops inside of the reduction.
    """

    reduction: list[LoopRV]
    block: LoopRV
    pixel: LoopRV
    tile: list[LoopRV]

    @property
    def outer(self) -> LoopRV:
        """The outermost loop of the reduction."""
        return self.reduction[0]


class Conv2d(GuardedRule):
    """Keeps a tile of pixels x output-channel blocks in registers over the whole reduction.

    Loops: image, chunk of rows, tile of channel blocks, row, tile of pixels | reduction | tile. The
    epilogue runs on the accumulators before they are stored.
    """

    name = "conv2d-nchwc"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        for op in (CONV2D, CONV2D_PIXELS):
            kernel = find_anchor(sch, op)
            if kernel is not None:
                return self._schedule(sch, kernel, by_rows=op == CONV2D)
        return None

    def _schedule(self, sch: s_tir.Schedule, kernel: Kernel, *, by_rows: bool) -> s_tir.Schedule:
        machine = machine_of_kernel(self.machine, sch.mod["main"])
        anchor = sch.get_sblock(kernel.anchor)
        shape = _shape(sch, anchor, by_rows=by_rows)
        spread = shape.flops * machine.lanes >= PARALLEL_FLOPS
        tile, chunk = division(machine if spread else replace(machine, cores=1), shape)
        last, moves = close_kernel(sch, kernel, pixels=not by_rows)
        epilogue = transcendental_cycles(sch, last, machine)
        result_bytes = prod(int(dim) for dim in sch.get(last).writes[0].source.shape) * 4

        loops = sch.get_loops(last)
        image, channel, lane = loops[0], loops[1], loops[-1]
        outer, inner = sch.split(loops[2], [None, chunk.size])
        channel_outer, block = sch.split(channel, [None, tile.blocks])
        if by_rows:
            row_outer, row = sch.split(inner, [None, tile.rows])
            pixel_outer, pixel = sch.split(loops[3], [None, tile.pixels])
            order = [row_outer, pixel_outer, block, row, pixel]
        else:
            pixel_outer, pixel = sch.split(inner, [None, tile.pixels])
            order = [pixel_outer, block, pixel]
        sch.reorder(image, outer, channel_outer, *order, lane)
        for loop, extent, size in (
            (order[0], chunk.size, tile.rows if by_rows else tile.pixels),
            (pixel_outer, shape.pixels, tile.pixels),
        ):
            if extent % size:
                sch.annotate(loop, PARTITION, 1)

        sch.compute_at(anchor, pixel_outer, preserve_unit_loops=True)
        # LLVM leaves the stores of accumulators that a loop indexes in the reduction's innermost
        # loop when they come from `vdpbf16ps`: 130 GFLOP/s instead of 410.
        paired = sch.get(anchor).reads[1].source.dtype == "int32"
        store_tile(sch, last, (block, *order[order.index(block) + 1 :]), lane, straight=paired)
        loops = self._schedule_tile(sch, anchor, by_rows=by_rows)
        for name in kernel.before:
            self._schedule_pad(sch, sch.get_sblock(name), outer if chunk.by_chunk else None)
        if spread:
            parallel = [image, outer] if chunk.by_chunk else [image, outer, channel_outer]
            sch.parallel(sch.fuse(*parallel))
        schedule_moves(sch, moves, machine)
        # At the end: other primitives do not take a reduction whose first step stands apart.
        sch.decompose_reduction(anchor, loops.outer)
        results = [block, *order[order.index(block) + 1 :]]
        update = sch.get_sblock(f"{kernel.anchor}_update")
        near = machine.l2_bytes // FAR
        asks: dict[LoopRV, list[Any]] = {}
        if shape.weight_bytes > near:
            tiles = order[: order.index(block)]
            asks = next_weights(sch, update, tiles, loops.reduction, loops.tile, tile.blocks)
        others: list[Any] = []
        if not by_rows and shape.input_bytes > machine.l2_bytes // 2:
            inside = [loops.reduction[-1], *loops.tile]
            others = next_pixels(sch, update, inside, pixel_outer, loops.pixel)
        others += epilogue_operands(sch, last, results, loops.outer, near)
        asks[loops.outer] = asks.get(loops.outer, []) + others
        made = prefetch(sch, asks)
        activation_bytes = operand_bytes(made.mod["main"]) - shape.weight_bytes
        cycles = conv_cycles(machine, shape, tile, activation_bytes, padded=bool(kernel.before))
        cycles += epilogue + (once_cycles(machine, 2 * result_bytes) if moves else 0.0)
        return predict(made, Prediction(cycles, parallel_pieces(made.mod["main"])))

    def _schedule_tile(self, sch: s_tir.Schedule, anchor: SBlockRV, *, by_rows: bool) -> "_Loops":
        outer_steps = int(sch.get(anchor).reads[1].source.shape[1])
        if by_rows:
            block, row, pixel, lane, ic, *window = sch.get_loops(anchor)[-7:]
            place = [row, pixel]
        else:
            block, pixel, lane, ic = sch.get_loops(anchor)[-4:]
            place, window = [pixel], []
        factor = int(sch.get(ic).extent) // outer_steps
        # A step of eight products is so short that what goes with it, once for two, shows.
        twice = factor == 1 and outer_steps % 2 == 0 and has_octs(sch.mod["main"])
        factor = 2 if twice else factor
        ic_outer, ic_inner = sch.split(ic, [None, factor])
        # Columns of a window share pixels. In straight code LLVM loads a pixel once for all columns
        # and keeps it, and accumulators leave the registers for it: half the speed at 3 channels.
        steps = [ic_outer, *window] if factor > 1 else [*window[1:], ic_outer, *window[:1]]
        # Blocks inside: a broadcast pixel is used up at once and needs one register.
        sch.reorder(*steps, ic_inner, *place, block, lane)
        sch.vectorize(lane)
        for loop in (*place, block, *([ic_inner] if twice else [])):
            sch.unroll(loop)
        return _Loops([*steps, ic_inner], block, pixel, [*place, block, lane])

    def _schedule_pad(self, sch: s_tir.Schedule, pad: SBlockRV, chunk: LoopRV | None) -> None:
        if chunk is not None:
            sch.compute_at(pad, chunk, preserve_unit_loops=True)
        axes = len(sch.get(pad).iter_vars)
        image, channel, row, column, *lane = sch.get_loops(pad)[-axes:]
        if lane:
            sch.vectorize(lane[0])
        sch.annotate(column, PARTITION, 1)
        if chunk is None and work(sch, pad) >= PARALLEL_WORK:
            sch.parallel(sch.fuse(image, channel, row))


def _shape(sch: s_tir.Schedule, anchor: SBlockRV, *, by_rows: bool) -> ConvShape:
    body = sch.get(anchor)
    data, weight = (read.source for read in body.reads[:2])
    out = [int(dim) for dim in body.writes[0].source.shape]
    groups = int(body.annotations[GROUPS])
    weights = [int(dim) for dim in weight.shape]
    return ConvShape(
        rows=out[2] if by_rows else 1,
        pixels=out[3] if by_rows else out[2],
        out_blocks=out[1],
        group_blocks=out[1] // groups,
        reduction=prod(weights[1:5]),
        input_bytes=prod(int(dim) for dim in data.shape[1:]) * data.dtype.itemsize,
        weight_bytes=prod(weights) * weight.dtype.itemsize,
        images=out[0],
        is_line=by_rows and out[2] == 1,
    )
