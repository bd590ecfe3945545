"""The schedule of matrix products with packed weights, and of what follows them."""

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import SBlockRV
from tvm.target import Target

from tvmopt_schedules.cpu.blocks import find_anchor
from tvmopt_schedules.cpu.compute.matmul import MATMUL_PACKED
from tvmopt_schedules.cpu.epilogue import join_epilogue
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import RegisterTile, register_tile

PARTITION = "pragma_loop_partition_hint"


class MatmulPacked(ScheduleRule):
    """Panels outermost: weights stream once. Inside, tiles of rows, each with its epilogue."""

    name = "matmul-packed"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(
        self,
        func: tirx.PrimFunc,
        target: Target,
        tunable: bool,  # noqa: FBT001
    ) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        kernel = find_anchor(sch, MATMUL_PACKED)
        if kernel is None:
            return None
        store, *after = kernel.after
        anchor = sch.get_sblock(kernel.anchor)
        rows, panels, panel = (int(d) for d in sch.get(anchor).writes[0].source.shape)
        columns = int(sch.get(sch.get_sblock(store)).writes[0].source.shape[-1])
        joined = join_epilogue(sch, store, tuple(after))
        if joined is None:
            return None
        sch, last = joined
        anchor = sch.get_sblock(kernel.anchor)
        lanes = self.machine.lanes
        tile = register_tile(self.machine, rows, columns, panel // lanes)
        row, column = sch.get_loops(last)
        p, v, lane = sch.split(column, [panels, tile.vectors, lanes])
        tiles, r = sch.split(row, [None, tile.rows])
        sch.reorder(p, tiles, r, v, lane)
        sch.compute_at(anchor, tiles, preserve_unit_loops=True)
        sch.parallel(p)
        tile_product(sch, anchor, last, tile, lanes)
        sch.annotate(tiles, PARTITION, 1)
        if columns % panel:
            sch.annotate(p, PARTITION, 1)
        return sch


def tile_product(
    sch: s_tir.Schedule,
    product: SBlockRV,
    last: SBlockRV,
    tile: RegisterTile,
    lanes: int,
) -> None:
    """Keeps one tile of the product in registers until the block `last` has consumed it.

    Args:
        sch: the schedule.
        product: the reduction, computed at the loop over tiles; its innermost loops are the row,
            the panel, the column of the panel and `k`.
        last: the block that consumes it; its three innermost loops are the row, the vector and the
            lane in a tile.
        tile: rows and vectors of a tile.
        lanes: of a vector.
    """
    r, v, lane = sch.get_loops(last)[-3:]
    sch.vectorize(lane)
    sch.unroll(v)
    sch.unroll(r)
    row, _, column, k = sch.get_loops(product)[-4:]
    v, lane = sch.split(column, [tile.vectors, lanes])
    sch.reorder(k, row, v, lane)
    sch.vectorize(lane)
    sch.unroll(v)
    sch.unroll(row)
    sch.decompose_reduction(product, k)
