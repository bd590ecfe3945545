"""The schedule of matrix products with packed weights, and of what follows them."""

from tvm import DataType, s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.blocks import find_anchor
from tvmopt_schedules.cpu.code.loops import PARALLEL_FLOPS, transcendental_cycles
from tvmopt_schedules.cpu.code.quads import machine_of_kernel
from tvmopt_schedules.cpu.compute.matmul import MATMUL_PACKED
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.matmul.epilogue import product_and_epilogue
from tvmopt_schedules.cpu.matmul.panel_prefetch import prefetch_next_panel
from tvmopt_schedules.cpu.register_tile import RegisterTile, matmul_cycles, register_tile
from tvmopt_schedules.cpu.rules.guarded import GuardedRule
from tvmopt_schedules.prediction import Prediction, operand_bytes, parallel_pieces, predict

PARTITION = "pragma_loop_partition_hint"

_FEWEST_TILES = 2
"""A panel for one tile of rows is a stream that hardware follows; fetching ahead cost it 10 %."""


class MatmulPacked(GuardedRule):
    """Panels outermost: weights stream once. Inside, tiles of rows, each with its epilogue.

    The other way round where cores come out more even with tiles than with panels.
    """

    name = "matmul-packed"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        kernel = find_anchor(s_tir.Schedule(func), MATMUL_PACKED)
        if kernel is None or kernel.before:
            return None
        lanes, cores = self.machine.lanes, self.machine.cores
        store, *after = kernel.after
        sch, name = product_and_epilogue(func, store, after, 2, lanes)
        last, product = sch.get_sblock(name), sch.get_sblock(kernel.anchor)
        rows, panels, panel = (int(d) for d in sch.get(product).writes[0].source.shape)
        weights = sch.get(product).reads[1].source
        row, column = sch.get_loops(last)
        columns = int(sch.get(column).extent)
        depth = int(weights.shape[1])
        machine = machine_of_kernel(self.machine, func)
        tile = register_tile(machine, rows, columns, panel // lanes, depth)
        item_bytes = DataType(weights.dtype).bits // 8
        cycles = _cycles(machine, sch, last, tile, (rows, columns, depth), item_bytes)
        p, v, lane = sch.split(column, [panels, tile.vectors, lanes])
        tiles, r = sch.split(row, [None, tile.rows])
        sch.reorder(p, tiles, r, v, lane)
        sch.compute_at(product, tiles, preserve_unit_loops=True)
        panels_outermost = imbalance(sch, p, cores) <= 1.1 * imbalance(sch, tiles, cores)
        if not panels_outermost:
            sch.reorder(tiles, p)
        if 2 * rows * columns * depth >= PARALLEL_FLOPS:
            sch.parallel(p if panels_outermost else tiles)
        k = sch.get_loops(product)[-1]
        tile_product(sch, product, last, tile, lanes)
        if rows % tile.rows:
            sch.annotate(tiles, PARTITION, 1)
        if columns % panel:
            sch.annotate(p, PARTITION, 1)
        if panels_outermost and int(sch.get(tiles).extent) >= _FEWEST_TILES:
            sch = prefetch_next_panel(sch, weights, p, tiles, k)
        return predict(sch, Prediction(cycles, parallel_pieces(sch.mod["main"])))


def _cycles(
    machine: Machine,
    sch: s_tir.Schedule,
    last: SBlockRV,
    tile: RegisterTile,
    sizes: tuple[int, int, int],
    item_bytes: int,
) -> float:
    _, columns, depth = sizes
    padded = -(-columns // (tile.vectors * machine.lanes)) * tile.vectors
    weight_bytes = padded * machine.lanes * depth * item_bytes
    activation_bytes = max(0, operand_bytes(sch.mod["main"]) - weight_bytes)
    product = matmul_cycles(machine, tile, sizes, weight_bytes, activation_bytes)
    return product + transcendental_cycles(sch, last, machine)


def imbalance(sch: s_tir.Schedule, loop: LoopRV, cores: int) -> float:
    """Time of the busiest core over the mean, when the loop's iterations are dealt out."""
    count = int(sch.get(loop).extent)
    return -(-count // cores) * cores / count


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
