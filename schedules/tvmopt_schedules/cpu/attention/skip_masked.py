"""Keys that a constant mask takes from a whole tile of query rows are not computed.

A causal mask leaves half of the scores, a sliding window a band. Which keys a tile can see at most
follows from its last row: `row + ahead`. Loops over keys keep their extent, so that buffers keep
their size; pieces of a loop behind the last key are jumped over.
"""

from typing import Any

import tvm_ffi
from tvm import IRModule, s_tir, tirx

from tvmopt_schedules.cpu.code.lanes import ELEMENTS

ROW_TILES = "tvmopt.row_tiles"
"""Annotation of the loop over tiles of rows: the tiles in one part of the rows."""

ROW_PARTS = "tvmopt.row_parts"
"""Annotation of the loop over heads and parts of their rows: the parts of a head."""


def skip_masked(
    sch: s_tir.Schedule, rows: int, tile_rows: int, ahead: int, piece: int
) -> s_tir.Schedule:
    """A schedule of the same kernel that leaves out keys which no row of a tile sees.

    Args:
        sch: with the annotations above, and ELEMENTS on loops over keys: the keys of one step.
        rows: queries of one head, after which the next head of a group begins.
        tile_rows: rows of a tile.
        ahead: row `m` sees no key after number `m + ahead`.
        piece: keys are left out by this many, a multiple of what any annotated loop steps by.
    """
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
