"""The schedule of products of two activations, and of what follows them."""

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import SBlockRV, ScheduleError
from tvm.target import Target

from tvmopt_schedules.cpu.blocks import find_anchor
from tvmopt_schedules.cpu.compute.batch_matmul import BATCH_MATMUL
from tvmopt_schedules.cpu.epilogue import join_epilogue
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.matmul_rule import PARTITION, tile_product
from tvmopt_schedules.cpu.register_tile import register_tile


class BatchMatmul(ScheduleRule):
    """One batch element after another: packs its right-hand side, then computes its tiles."""

    name = "batch-matmul"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001
    ) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        kernel = find_anchor(sch, BATCH_MATMUL)
        if kernel is None:
            return None
        *moves, pack_name = kernel.before
        try:
            for name in moves:
                sch.compute_inline(sch.get_sblock(name))
        except ScheduleError:
            return None
        store, *after = kernel.after
        buffer = sch.get(sch.get_sblock(kernel.anchor)).writes[0].source
        batch, rows, panels, panel = (int(d) for d in buffer.shape)
        columns = int(sch.get(sch.get_sblock(store)).writes[0].source.shape[-1])
        joined = join_epilogue(sch, store, tuple(after), axes=3)
        if joined is None:
            return None
        sch, last = joined
        anchor, pack = sch.get_sblock(kernel.anchor), sch.get_sblock(pack_name)
        shared = int(sch.get(pack).writes[0].source.shape[0]) != batch
        lanes = self.machine.lanes
        tile = register_tile(self.machine, rows, columns, panel // lanes)
        g, row, column = sch.get_loops(last)
        p, v, lane = sch.split(column, [panels, tile.vectors, lanes])
        tiles, r = sch.split(row, [None, tile.rows])
        sch.reorder(g, p, tiles, r, v, lane)
        sch.compute_at(anchor, tiles, preserve_unit_loops=True)
        if not shared:
            sch.compute_at(pack, g, preserve_unit_loops=True)
        self._pack(sch, pack)
        sch.parallel(p if shared else g)
        tile_product(sch, anchor, last, tile, lanes)
        sch.annotate(tiles, PARTITION, 1)
        if columns % panel:
            sch.annotate(p, PARTITION, 1)
        return sch

    def _pack(self, sch: s_tir.Schedule, pack: SBlockRV) -> None:
        p, d, v = sch.get_loops(pack)[-3:]
        v, lane = sch.split(v, [None, self.machine.lanes])
        sch.vectorize(lane)
        del p, d, v
