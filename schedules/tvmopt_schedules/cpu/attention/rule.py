"""The schedule of fused attention: see `compute/attention.py` for the steps."""

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from tvmopt_schedules.cpu.attention.skip_masked import ROW_PARTS, ROW_TILES, Skip, skip_masked
from tvmopt_schedules.cpu.attention.tile import (
    AttentionShape,
    attention_cycles,
    attention_tile,
    pack_cycles,
    row_tile_cycles,
)
from tvmopt_schedules.cpu.code.blocks import find_anchor
from tvmopt_schedules.cpu.code.lanes import (
    ACCUMULATORS,
    BREAKS,
    ELEMENTS,
    LANES,
    REDUCE_LANES,
    vectorize_annotated,
)
from tvmopt_schedules.cpu.code.loops import Strides, transcendentals
from tvmopt_schedules.cpu.code.pairs import PAIR_DTYPE
from tvmopt_schedules.cpu.code.transpose_lanes import TRANSPOSE, transpose_annotated
from tvmopt_schedules.cpu.compute.attention import AHEAD, ATTENTION
from tvmopt_schedules.cpu.matmul.epilogue import product_and_epilogue
from tvmopt_schedules.cpu.register_tile import RegisterTile
from tvmopt_schedules.cpu.rules.guarded import GuardedRule
from tvmopt_schedules.prediction import Prediction, predict

PARTITION = "pragma_loop_partition_hint"

PARALLEL_CYCLES = 40_000
"""Under this, about 10 us of one core, waking the thread pool costs more than it brings."""

_STORE = "attention_rows"
_OWN = (
    "attention_q",
    "attention_k",
    "attention_scores",
    "attention_exponent",
    "attention_max",
    "attention_weights",
    "attention_sum",
    "attention_inverse",
    "attention_v",
)
_ROUNDED = "attention_rounded"


_MOST_LOADS = 3
"""Of a score and its masks, which are read again where the weights are computed."""


class Attention(GuardedRule):
    """Heads, and parts of their rows, over the cores; in each, tiles of rows one after another."""

    name = "attention"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        kernel = find_anchor(s_tir.Schedule(func), ATTENTION)
        if kernel is None:
            return None
        lanes = self.machine.lanes
        after = kernel.after[kernel.after.index(_STORE) + 1 :]
        sch, name = product_and_epilogue(func, _STORE, after, 3, lanes)
        rounds = _ROUNDED in kernel.before
        own = {one: sch.get_sblock(one) for one in (*_OWN, *([_ROUNDED] if rounds else []))}
        for move in kernel.before:
            if move not in own:
                sch.compute_inline(sch.get_sblock(move))
        last, product = sch.get_sblock(name), sch.get_sblock(kernel.anchor)
        head, row, column = sch.get_loops(last)
        heads, rows, columns = (int(sch.get(loop).extent) for loop in (head, row, column))
        products = 2 if _dtype(sch, own["attention_q"]) == PAIR_DTYPE else 1
        depth = int(sch.get(own["attention_q"]).writes[0].source.shape[3]) * products
        keys = int(sch.get(own["attention_weights"]).writes[0].source.shape[3])
        shape = AttentionShape(rows, keys, depth, columns, products)
        tile = attention_tile(self.machine, shape)
        vectors, out_vectors = -(-keys // lanes), -(-columns // lanes)

        for one in ("attention_k", "attention_v"):
            _pack_in_panels(sch, own[one], tile.vectors)
        parts = self._parts(heads, tile, shape)
        cycles = attention_cycles(self.machine, tile, shape, heads, heads * parts)
        out_width = min(tile.vectors, out_vectors)
        p, v, lane = sch.split(column, [None, out_width, lanes])
        part, t, r = sch.split(row, [parts, None, tile.rows])
        sch.reorder(head, part, t, p, r, v, lane)
        around = sch.fuse(head, part)
        sch.compute_at(product, p, preserve_unit_loops=True)
        for one in (
            *([_ROUNDED] if rounds else []),
            "attention_inverse",
            "attention_sum",
            "attention_weights",
            "attention_max",
            "attention_exponent",
            "attention_scores",
            "attention_q",
        ):
            sch.compute_at(own[one], t, preserve_unit_loops=True)
        for one in ("attention_v", "attention_k"):
            sch.compute_at(own[one], around, preserve_unit_loops=True)
        skip = self._skip(sch, product, shape, tile)
        if skip is not None:
            visible_cycles = skip.cycles(cycles, heads, rows, keys)
            skip = skip if visible_cycles < cycles else None
            cycles = min(cycles, visible_cycles)
        if skip is not None:
            sch.annotate(t, ROW_TILES, int(sch.get(t).extent))
            sch.annotate(around, ROW_PARTS, parts)
        is_parallel = cycles >= PARALLEL_CYCLES and heads * parts > 1
        if is_parallel:
            sch.parallel(around)

        piece = skip.piece if skip else 0
        self._scores(sch, own["attention_scores"], tile.vectors, vectors, piece)
        self._product(sch, product, last, piece, products)
        self._softmax(sch, own, keys, piece)
        self._pack(sch, own["attention_k"])
        vector = sch.get_loops(own["attention_v"])[-1]
        sch.vectorize(vector)
        made = transpose_annotated(vectorize_annotated(sch))
        if skip is not None:
            made = skip_masked(made, skip)
        return predict(made, Prediction(cycles, heads * parts if is_parallel else 1))

    def _skip(
        self, sch: s_tir.Schedule, product: SBlockRV, shape: AttentionShape, tile: RegisterTile
    ) -> Skip | None:
        """What a constant mask allows to leave out; None where nothing."""
        annotation: Any = sch.get(product).annotations.get(AHEAD)
        piece = ACCUMULATORS * self.machine.lanes
        # Pieces without a rest: only loops over whole ones are cut off.
        is_whole = shape.keys % piece == 0 and piece % (tile.vectors * self.machine.lanes) == 0
        if annotation is None or not is_whole:
            return None
        ahead, queries = (int(one) for one in annotation)
        return Skip(queries, tile.rows, ahead, piece)

    def _parts(self, heads: int, tile: RegisterTile, shape: AttentionShape) -> int:
        """Into how many parts a head's rows are split, so that the cores come out even.

        Each part packs the keys and values of its head by itself.
        """
        cores, tiles = self.machine.cores, -(-shape.rows // tile.rows)
        pack, one = pack_cycles(self.machine, shape), row_tile_cycles(self.machine, tile, shape)

        def makespan(parts: int) -> float:
            rounds = -(-heads * parts // cores)
            return rounds * (-(-tiles // parts) * one + pack)

        return min(range(1, min(tiles, 2 * cores) + 1), key=makespan)

    def _scores(
        self, sch: s_tir.Schedule, block: SBlockRV, width: int, vectors: int, piece: int
    ) -> None:
        r, u, lane, d = sch.get_loops(block)[-4:]
        p, v = sch.split(u, [None, width])
        sch.reorder(p, d, r, v, lane)
        sch.unroll(r)
        sch.unroll(v)
        sch.vectorize(lane)
        if vectors % width:
            sch.annotate(p, PARTITION, 1)
        if piece:
            sch.annotate(p, ELEMENTS, width * self.machine.lanes)
        tile = sch.cache_write(block, 0, "global")
        sch.reverse_compute_at(tile, p, preserve_unit_loops=True)
        r, v, lane = sch.get_loops(tile)[-3:]
        sch.unroll(r)
        sch.unroll(v)
        sch.vectorize(lane)
        sch.decompose_reduction(block, d)

    def _product(
        self, sch: s_tir.Schedule, product: SBlockRV, last: SBlockRV, piece: int, products: int
    ) -> None:
        r, v, lane = sch.get_loops(last)[-3:]
        sch.vectorize(lane)
        sch.unroll(v)
        sch.unroll(r)
        r, v, lane, n = sch.get_loops(product)[-4:]
        sch.reorder(n, r, v, lane)
        sch.vectorize(lane)
        sch.unroll(v)
        sch.unroll(r)
        if piece:
            pieces, n = sch.split(n, [None, piece // products])
            sch.annotate(pieces, ELEMENTS, piece)
            n = pieces
        sch.decompose_reduction(product, n)

    def _softmax(
        self, sch: s_tir.Schedule, own: dict[str, SBlockRV], keys: int, piece: int
    ) -> None:
        lanes = self.machine.lanes
        for one in ("attention_scores", "attention_weights", _ROUNDED):
            if one in own:
                sch.storage_align(own[one], 0, 2, 32, 16)
        written = ["attention_weights", *([_ROUNDED] if _ROUNDED in own else [])]
        if _is_cheap_twice(sch, own["attention_exponent"]):
            sch.compute_inline(own["attention_exponent"])
        else:
            written.append("attention_exponent")
        for one in written:
            loop = sch.get_loops(own[one])[-1]
            if piece:
                pieces, loop = sch.split(loop, [None, piece])
                sch.annotate(pieces, ELEMENTS, piece)
            sch.annotate(loop, LANES, lanes)
            if one == _ROUNDED and keys % 2:
                sch.annotate(loop, BREAKS, [keys])
        for one in ("attention_max", "attention_sum"):
            loop = sch.get_loops(own[one])[-1]
            sch.annotate(loop, REDUCE_LANES, lanes)
            if piece:
                sch.annotate(loop, ELEMENTS, 1)

    def _pack(self, sch: s_tir.Schedule, pack: SBlockRV) -> None:
        depth, lane = sch.get_loops(pack)[-2:]
        if all(stride in (0, 1) for stride in Strides(sch, pack).along(lane)):
            sch.vectorize(lane)
            return
        sch.annotate(depth, TRANSPOSE, 1)


def _pack_in_panels(sch: s_tir.Schedule, pack: SBlockRV, width: int) -> None:
    """Puts the vectors that a tile multiplies in one step side by side: one stream, not `width`.

    Two heads of 8192 keys and values, 4 MB each, took 3 to 9 % less time on a Zen 3 core, those of
    512 keys 1 to 8 %; with 128 keys it makes no difference. A rest of vectors leaves them as they
    are.
    """
    vectors = int(sch.get(pack).writes[0].source.shape[1])
    if vectors % width:
        return

    def panels(h: Any, u: Any, step: Any, lane: Any) -> list[Any]:
        return [h, u // width, step, u % width, lane]

    sch.transform_layout(pack, ("write", 0), panels)


def _dtype(sch: s_tir.Schedule, block: SBlockRV) -> str:
    return str(sch.get(block).writes[0].source.dtype)


def _is_cheap_twice(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether a block had better be computed by both of its readers than stored for them."""
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(sch.get(block).body, [(ir.TensorLoad, loads.append)])
    return len(loads) <= _MOST_LOADS and transcendentals(sch, block) == 0
