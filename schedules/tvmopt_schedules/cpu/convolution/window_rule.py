"""The schedule of depthwise convolutions and pooling on blocked channels."""

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.blocks import Kernel, find_anchor
from tvmopt_schedules.cpu.code.loops import PARALLEL_WORK, work
from tvmopt_schedules.cpu.compute.window import WINDOW
from tvmopt_schedules.cpu.convolution.blocked_epilogue import (
    close_kernel,
    schedule_moves,
    store_tile,
)
from tvmopt_schedules.cpu.convolution.conv2d_rule import PARTITION
from tvmopt_schedules.cpu.rules.guarded import GuardedRule

_UNROLLED = 100  # multiplications in one stretch of straight code

_FMA_CHAINS = 8
"""Sums that keep two multiply-add units of four cycles' latency busy."""


class WindowNchwc(GuardedRule):
    """Keeps a row of results in registers while the window's positions go by.

    An image is not padded in memory where windows are small: each load asks instead whether it is
    inside. A branch of their own for rows outside brought no time on MobileNetV2's layers.
    """

    name = "window-nchwc"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        kernel = find_anchor(sch, WINDOW)
        return None if kernel is None else self._schedule(sch, kernel)

    def _schedule(self, sch: s_tir.Schedule, kernel: Kernel) -> s_tir.Schedule:
        anchor = sch.get_sblock(kernel.anchor)
        _, window = (int(it.dom.extent) for it in sch.get(anchor).iter_vars[5:])
        small = 4 * window <= _UNROLLED
        if small:
            for name in kernel.before:
                sch.compute_inline(sch.get_sblock(name))
        last, moves = close_kernel(sch, kernel, cut=True)

        image, channel, row, column, lane = sch.get_loops(last)
        width, height, blocks = (int(sch.get(loop).extent) for loop in (column, row, channel))
        columns = self._columns(width, window)
        spread = work(sch, anchor) // self.machine.lanes >= PARALLEL_WORK
        cores = self.machine.cores if spread else 1
        parts, channels = cut_for_cores(int(sch.get(image).extent), height, blocks, cores)
        channels = max(c for c in _divisors(channels) if c * columns <= max(columns, 8))
        channel_outer, channel_inner = sch.split(channel, [None, channels])
        column_outer, column_inner = sch.split(column, [None, columns])
        part, row = sch.split(row, [parts, None])
        chunk = None
        rows = [row]
        if kernel.before and not small:
            fitting = self._rows(sch, kernel, channels, height, parts)
            rows = list(sch.split(row, [None, fitting]))
            chunk = rows[0]
        sch.reorder(part, channel_outer, *rows, column_outer, channel_inner, column_inner, lane)
        sch.annotate(column_outer, PARTITION, 1)
        sch.compute_at(anchor, column_outer, preserve_unit_loops=True)
        store_tile(sch, last, (channel_inner, column_inner), lane)
        _, channel_inner, _, column_inner, lane, kh, kw = sch.get_loops(anchor)[-7:]
        sch.reorder(kh, kw, channel_inner, column_inner, lane)
        sch.unroll(channel_inner)
        sch.unroll(column_inner)
        sch.vectorize(lane)
        if window * columns * channels <= _UNROLLED:
            sch.unroll(kw)
        if chunk is not None:
            for name in kernel.before:
                _schedule_pad(sch, sch.get_sblock(name), chunk)
        if spread:
            sch.parallel(sch.fuse(image, part, channel_outer))
        schedule_moves(sch, moves, self.machine)
        sch.decompose_reduction(anchor, kh)
        return sch

    def _columns(self, width: int, window: int) -> int:
        """Results side by side: as few tiles as possible, all of one width where that exists."""
        # 16 registers spill a little at 8 sums, yet fewer wait for each other: 7 columns of a 3 x 3
        # window take half of the time of 6 and a rest.
        most = max(_FMA_CHAINS, self.machine.registers // 2 - 2)
        most = min(width, most, max(4, _UNROLLED // window))
        widths = range(-(-most // 2), most + 1)
        return min(widths, key=lambda t: (-(-width // t), width % t != 0, -t))

    def _rows(
        self, sch: s_tir.Schedule, kernel: Kernel, channels: int, height: int, parts: int
    ) -> int:
        """Rows of results, out of one of `parts`, whose padded image fits the level-2 cache."""
        pad = sch.get_sblock(kernel.before[-1])
        shape = [int(dim) for dim in sch.get(pad).writes[0].source.shape]
        plane_bytes = shape[2] * shape[3] * shape[4] * channels * 4
        rows = _divisors(height // parts)
        fitting = [r for r in rows if plane_bytes * r // height <= self.machine.l2_bytes // 4]
        return fitting[-1] if fitting else rows[-1]


def cut_for_cores(images: int, height: int, blocks: int, cores: int) -> tuple[int, int]:
    """Into how many parts the rows of an image are cut, and the most blocks in one piece.

    Rows where the cores come out even, as in the convolutions around: each core finds the rows that
    it wrote in its own cache. Else, as with 7 rows, blocks of channels.

    Returns:
        Parts of the rows, and a divisor of `blocks` that leaves pieces for all cores.
    """
    if images % cores == 0:
        return 1, blocks
    if height % cores == 0:
        return cores, blocks
    even = [b for b in _divisors(blocks) if images * (blocks // b) % cores == 0]
    return 1, (even or [1])[-1]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _schedule_pad(sch: s_tir.Schedule, pad: SBlockRV, chunk: LoopRV) -> None:
    sch.compute_at(pad, chunk, preserve_unit_loops=True)
    column, lane = sch.get_loops(pad)[-2:]
    sch.vectorize(lane)
    sch.annotate(column, PARTITION, 1)
