"""Fetching the weights of the next panel while the tiles of this one are computed."""

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV

_READ, _LEVEL_2, _DATA = 0, 2, 1  # operands of llvm.prefetch
_LINE = 64  # bytes of a cache line


def prefetch_next_panel(
    sch: s_tir.Schedule, panels: Any, panel: LoopRV, tiles: LoopRV, k: LoopRV
) -> s_tir.Schedule:
    """Adds prefetches to each step of `k`; a panel's tiles together fetch all of the next one.

    The first tile of a panel would else wait for memory: its share of the panel's time is small
    in a cache, but at 8 GB/s 48 columns of 768 weights take as long as five tiles' arithmetic.
    Addresses after the last panel do no harm: a prefetch does not fault.

    Args:
        sch: the schedule.
        panels: the buffer `[P, K, panel]`.
        panel: the loop over P.
        tiles: the loop over tiles of rows.
        k: the loop over K, inside of both.
    """
    _, depth, width = (int(d) for d in panels.shape)
    count = int(sch.get(tiles).extent)
    p, tile, step = (sch.get(loop).loop_var for loop in (panel, tiles, k))
    share = -(-width // count)
    zero = tirx.const(0, "int64")
    at = (tile * depth + step) * share
    line = _LINE * 8 // tvm.DataType(panels.dtype).bits
    asks = [_ask(panels, [p + 1, zero, at + offset]) for offset in range(0, share, line)]

    def insert(loop: tirx.For) -> tirx.For:
        if not loop.loop_var.same_as(step):
            return loop
        return tirx.For(
            loop.loop_var,
            loop.min,
            loop.extent,
            loop.kind,
            tirx.SeqStmt([*asks, loop.body]),
            loop.thread_binding,
            loop.annotations,
        )

    func = sch.mod["main"]
    body = tvm_ffi.structural_map(func.body, (tirx.For, insert))
    return s_tir.Schedule(tvm.IRModule({"main": func.with_body(body)}))


def _ask(panels: Any, index: list[Any]) -> s_tir.SBlockRealize:
    call = tirx.call_intrin(
        "void",
        "tirx.prefetch",
        tirx.address_of(tirx.BufferLoad(panels, index)),
        *(tirx.const(value, "int32") for value in (_READ, _LEVEL_2, _DATA)),
    )
    block = s_tir.SBlock([], [], [], "prefetch", tirx.Evaluate(call))
    return s_tir.SBlockRealize([], tirx.const(1, "bool"), block)
