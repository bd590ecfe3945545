"""The schedule of depthwise convolutions and pooling on blocked channels."""

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.blocked_epilogue import close_kernel, schedule_moves, store_tile
from tvmopt_schedules.cpu.blocks import Kernel, find_anchor
from tvmopt_schedules.cpu.compute.window import WINDOW
from tvmopt_schedules.cpu.conv2d_rule import PARTITION
from tvmopt_schedules.cpu.guarded_rule import GuardedRule
from tvmopt_schedules.cpu.loops import PARALLEL_WORK, work

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
        channels = max(c for c in range(1, 9) if blocks % c == 0 and c * columns <= max(columns, 8))
        channel_outer, channel_inner = sch.split(channel, [None, channels])
        column_outer, column_inner = sch.split(column, [None, columns])
        chunk = None
        if kernel.before and not small:
            chunk, row = sch.split(row, [None, self._rows(sch, kernel, channels, height)])
        sch.reorder(channel_outer, row, column_outer, channel_inner, column_inner, lane)
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
        if work(sch, anchor) // self.machine.lanes >= PARALLEL_WORK:
            sch.parallel(sch.fuse(image, channel_outer))
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

    def _rows(self, sch: s_tir.Schedule, kernel: Kernel, channels: int, height: int) -> int:
        """Rows of results whose padded image stays in the level-2 cache."""
        pad = sch.get_sblock(kernel.before[-1])
        shape = [int(dim) for dim in sch.get(pad).writes[0].source.shape]
        plane_bytes = shape[2] * shape[3] * shape[4] * channels * 4
        rows = [r for r in range(1, height + 1) if height % r == 0]
        fitting = [r for r in rows if plane_bytes * r // height <= self.machine.l2_bytes // 4]
        return fitting[-1] if fitting else height


def _schedule_pad(sch: s_tir.Schedule, pad: SBlockRV, chunk: LoopRV) -> None:
    sch.compute_at(pad, chunk, preserve_unit_loops=True)
    column, lane = sch.get_loops(pad)[-2:]
    sch.vectorize(lane)
    sch.annotate(column, PARTITION, 1)
