"""Keys that a constant mask takes from a whole tile of query rows are not computed.

A causal mask leaves half of the scores, a sliding window a band. Which keys a tile can see at most
follows from its last row: `row + ahead`. Loops over keys keep their extent, so that buffers keep
their size; pieces of a loop behind the last key are jumped over.
"""

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import IRModule, s_tir, tirx

from tvmopt_schedules.cpu.code.lanes import ELEMENTS

ROW_TILES = "tvmopt.row_tiles"
"""Annotation of the loop over tiles of rows: the tiles in one part of the rows."""

ROW_PARTS = "tvmopt.row_parts"
"""Annotation of the loop over heads and parts of their rows: the parts of a head."""


_PIECE_CYCLES = 20.0
"""A row's loops over one piece of its keys by themselves, each with a test in front of it.

On a Zen 3 core, of 512 queries and keys, causal, 64 numbers deep, 53 % of the scores took 60 % of
the time, and 16 deep 65 %; where queries look 256 keys ahead, 88 % took 95 % and 98 to 135 %.
"""


@dataclass(frozen=True)
class Skip:
    """Which keys are left out.

    Attributes:
        queries: of one head, after which the next head of a group begins.
        tile_rows: rows of a tile.
        ahead: query `m` sees no key after number `m + ahead`.
        piece: keys are left out by this many, a multiple of what any annotated loop steps by.
    """

    queries: int
    tile_rows: int
    ahead: int
    piece: int

    def visible_share(self, rows: int, keys: int) -> float:
        """The part of the scores that is left of `rows` x `keys`, the rows of a group of heads."""
        begins = range(0, rows, self.tile_rows)
        lasts = [min(begin % self.queries + self.tile_rows, self.queries) for begin in begins]
        visible = [min(keys, -(-(last + self.ahead) // self.piece) * self.piece) for last in lasts]
        return sum(visible) / (len(visible) * keys)

    def cycles(self, full: float, heads: int, rows: int, keys: int) -> float:
        """Cycles of a kernel that takes `full` cycles for all scores of `heads` groups."""
        pieces = heads * rows * keys / self.piece
        return self.visible_share(rows, keys) * (full + pieces * _PIECE_CYCLES)


def skip_masked(sch: s_tir.Schedule, skip: Skip) -> s_tir.Schedule:
    """A schedule of the same kernel that leaves out keys which no row of a tile sees.

    Args:
        sch: with the annotations above, and ELEMENTS on loops over keys: the keys of one step.
        skip: which keys those are.
    """
    rows, tile_rows, ahead, piece = skip.queries, skip.tile_rows, skip.ahead, skip.piece
    func = sch.mod["main"]
    around: list[tirx.For] = []

    def note(loop: tirx.For) -> None:
        if ROW_PARTS in loop.annotations:
            around.append(loop)

    tvm_ffi.structural_walk(func.body, [(tirx.For, note)])
    (outer,) = around
    parts = int(outer.annotations[ROW_PARTS])
    # In memory, the bound is opaque to analyses that would make buffers depend on it.
    bound = tirx.decl_buffer((1,), "int32", "visible_keys")
    zero = tirx.const(0, "int32")

    def rewrite(loop: tirx.For) -> Any:
        if ELEMENTS in loop.annotations:
            begins = loop.loop_var * int(loop.annotations[ELEMENTS])
            is_visible = begins.astype("int32") < tirx.BufferLoad(bound, [zero])
            return _plain(loop, tirx.IfThenElse(is_visible, loop.body, None))
        if ROW_TILES in loop.annotations:
            tile = outer.loop_var % parts * int(loop.annotations[ROW_TILES]) + loop.loop_var
            last = tirx.min(tile * tile_rows % rows + (tile_rows - 1), rows - 1)
            keys = (last + (1 + ahead + piece - 1)) // piece * piece
            store = tirx.BufferStore(bound, keys.astype("int32"), [zero])
            whole = tirx.SeqStmt([store, loop.body])
            block = s_tir.SBlock([], [], [], "visible", whole, alloc_buffers=[bound])
            return _plain(loop, s_tir.SBlockRealize([], True, block))  # noqa: FBT003
        return loop

    body = tvm_ffi.structural_map(func.body, (tirx.For, rewrite))
    return s_tir.Schedule(IRModule({"main": func.with_body(body)}))


def _plain(loop: tirx.For, body: Any) -> tirx.For:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)
