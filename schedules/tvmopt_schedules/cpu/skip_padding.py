"""Windows on images that are not padded in memory: rows outside the image are left out."""

from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx

from tvmopt_schedules.cpu.terms import substitute, variables, with_body


def skip_rows_outside(sch: s_tir.Schedule, update: str, columns: tuple[int, ...]) -> s_tir.Schedule:
    """Moves the part of a padding's condition that tells rows from a value to its whole block.

    `acc += (row inside and column inside ? image[..] : 0) * w` becomes, under `row inside`,
    `acc += (column inside ? image[..] : 0) * w`, which lowering hoists out of the loops over
    columns: one branch for a row of the tile. To leave out what padding contributes is exact for
    sums and maxima, whose first step stands in a block of its own.

    Args:
        sch: the schedule, at its end: what it returns cannot be scheduled further.
        update: the block; its value reads the image in one `if_then_else`.
        columns: the block's axes that a column's condition depends on.
    """

    def guard(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        block = realize.block
        if block.name_hint != update:
            return realize
        across = {block.iter_vars[axis].var for axis in columns}
        rows: list[Any] = []

        def narrow(call: ir.Call) -> Any:
            if not isinstance(call.op, ir.Op) or call.op.name != "tirx.if_then_else":
                return call
            condition, inside, outside = call.args
            terms = _conjuncts(condition)
            rows[:] = [term for term in terms if not across & variables(term)]
            rest = [term for term in terms if across & variables(term)]
            return tirx.if_then_else(tirx.all(*rest), inside, outside) if rest else inside

        body = tvm_ffi.structural_map(block.body, (ir.Call, narrow))
        if not rows:
            return realize
        values = dict(zip((it.var for it in block.iter_vars), realize.iter_values, strict=True))
        predicate = tirx.all(realize.predicate, *(substitute(term, values) for term in rows))
        return s_tir.SBlockRealize(realize.iter_values, predicate, with_body(block, body))

    func = sch.mod["main"]
    body = tvm_ffi.structural_map(func.body, (s_tir.SBlockRealize, guard))
    return s_tir.Schedule(IRModule({"main": func.with_body(body)}))


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]
