"""The schedule of products of two activations, and of what follows them."""

from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from tvmopt_schedules.cpu.code.blocks import find_anchor
from tvmopt_schedules.cpu.code.loops import (
    PARALLEL_FLOPS,
    Strides,
    largest_divisor,
    transcendental_cycles,
)
from tvmopt_schedules.cpu.code.quads import machine_of_kernel
from tvmopt_schedules.cpu.compute.batch_matmul import BATCH_MATMUL
from tvmopt_schedules.cpu.cost import CALL_CYCLES
from tvmopt_schedules.cpu.matmul.epilogue import product_and_epilogue
from tvmopt_schedules.cpu.matmul.packed_rule import PARTITION, imbalance, tile_product
from tvmopt_schedules.cpu.register_tile import product_cycles, register_tile
from tvmopt_schedules.cpu.rules.guarded import GuardedRule
from tvmopt_schedules.prediction import Prediction, parallel_pieces, predict


class BatchMatmul(GuardedRule):
    """One batch element after another: packs its right-hand side, then computes its tiles."""

    name = "batch-matmul"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        kernel = find_anchor(s_tir.Schedule(func), BATCH_MATMUL)
        if kernel is None:
            return None
        lanes, cores = self.machine.lanes, self.machine.cores
        *moves, pack_name = kernel.before
        store, *after = kernel.after
        sch, name = product_and_epilogue(func, store, after, 3, lanes)
        for move in moves:
            sch.compute_inline(sch.get_sblock(move))
        last, product = sch.get_sblock(name), sch.get_sblock(kernel.anchor)
        pack = sch.get_sblock(pack_name)
        batch, rows, panels, panel = (int(d) for d in sch.get(product).writes[0].source.shape)
        shared = int(sch.get(pack).writes[0].source.shape[0]) != batch
        g, row, column = sch.get_loops(last)
        columns = int(sch.get(column).extent)
        depth = int(sch.get(pack).writes[0].source.shape[2])
        machine = machine_of_kernel(self.machine, func)
        tile = register_tile(machine, rows, columns, panel // lanes, depth)
        cycles = batch * product_cycles(machine, tile, rows, columns, depth)
        cycles += transcendental_cycles(sch, last, self.machine) + CALL_CYCLES
        p, v, lane = sch.split(column, [panels, tile.vectors, lanes])
        tiles, r = sch.split(row, [None, tile.rows])
        sch.reorder(g, p, tiles, r, v, lane)
        sch.compute_at(product, tiles, preserve_unit_loops=True)
        if not shared:
            sch.compute_at(pack, g, preserve_unit_loops=True)
        per_element = self._pack(sch, pack)
        cycles += (1 if shared else batch) * panels * panel * depth * per_element
        if 2 * batch * rows * columns * depth >= PARALLEL_FLOPS:
            by_panel = shared and imbalance(sch, p, cores) < imbalance(sch, g, cores)
            sch.parallel(p if by_panel else g)
        tile_product(sch, product, last, tile, lanes)
        if rows % tile.rows:
            sch.annotate(tiles, PARTITION, 1)
        if columns % panel:
            sch.annotate(p, PARTITION, 1)
        return predict(sch, Prediction(cycles, parallel_pieces(sch.mod["main"])))

    def _pack(self, sch: s_tir.Schedule, pack: SBlockRV) -> float:
        """Schedules the packing; returns its cycles for one element."""
        depth, column = sch.get_loops(pack)[-2:]
        is_contiguous = all(stride in (0, 1) for stride in Strides(sch, pack).along(column))
        vectors, lane = sch.split(column, [None, self.machine.lanes])
        if is_contiguous:
            sch.vectorize(lane)
            return 2 * 4 / self.machine.l2_bytes_per_cycle
        # A transpose, element by element: gathering vectors took 10 % longer for the whole product.
        steps, step = sch.split(depth, [None, largest_divisor(int(sch.get(depth).extent), 4)])
        sch.reorder(steps, vectors, lane, step)
        sch.unroll(step)
        sch.unroll(lane)
        return 1.0
