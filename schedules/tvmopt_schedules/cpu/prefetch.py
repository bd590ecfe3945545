"""Weights are asked for one tile ahead, where they come from beyond the level-2 cache."""

from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx

from tvmopt_schedules.cpu.terms import substitute, variables

PREFETCH = "tvmopt.prefetch"
"""Annotation of the innermost loop outside of the register tile."""

_READ, _INTO_LEVEL_2, _DATA = 0, 2, 1  # operands of LLVM's intrinsic


def prefetch_next_blocks(
    sch: s_tir.Schedule, update: str, operand: int, blocks: int
) -> s_tir.Schedule:
    """Asks for the weights of the next `blocks` channel blocks while the current ones are used.

    Hardware runs ahead of a stream of weights by some lines and never into the next page, which
    hides the level-2 cache's latency but not the way from beyond it.

    Args:
        sch: the schedule, at its end, with one loop annotated PREFETCH.
        update: the block in that loop that reads the weights.
        operand: which of the block's read regions the weights are; their first dimension counts
            blocks of channels.
        blocks: blocks of channels in a tile.
    """

    def ask(loop: tirx.For) -> Any:
        if PREFETCH not in loop.annotations:
            return loop
        inner, realize = _descend(loop.body)
        assert realize.block.name_hint == update
        weight = realize.block.reads[operand].source
        variables_of = (it.var for it in realize.block.iter_vars)
        values = dict(zip(variables_of, realize.iter_values, strict=True))
        index = [substitute(i, values) for i in _index(realize.block, weight)]
        tile = [f for f in inner if f.loop_var in variables(index[0])]
        asks: list[Any] = []
        for block in range(blocks):
            place = {f.loop_var: f.min + block if f in tile else f.min for f in inner}
            first, *rest = (substitute(i, place) for i in index)
            # The last tile asks for its own weights again: they are there already.
            first = tirx.min(first + blocks, int(weight.shape[0]) - 1)
            address = tirx.address_of(tirx.BufferLoad(weight, [first, *rest]))
            call = tirx.call_intrin("void", "tirx.prefetch", address, _READ, _INTO_LEVEL_2, _DATA)
            asks.append(tirx.Evaluate(call))
        kept = {k: v for k, v in loop.annotations.items() if k != PREFETCH}
        body = tirx.SeqStmt([*asks, loop.body])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=kept)

    func = sch.mod["main"]
    body = tvm_ffi.structural_map(func.body, (tirx.For, ask))
    return s_tir.Schedule(IRModule({"main": func.with_body(body)}))


def _descend(stmt: Any) -> tuple[list[tirx.For], s_tir.SBlockRealize]:
    loops: list[tirx.For] = []
    while isinstance(stmt, tirx.For):
        loops.append(stmt)
        stmt = stmt.body
    return loops, stmt


def _index(block: s_tir.SBlock, buffer: Any) -> list[Any]:
    found: list[list[Any]] = []

    def note(load: ir.TensorLoad) -> None:
        if load.source.same_as(buffer):
            found.append(list(load.indices))

    tvm_ffi.structural_walk(block.body, [(ir.TensorLoad, note)])
    return found[0]
