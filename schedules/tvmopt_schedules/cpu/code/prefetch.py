"""Asking for memory ahead of its use: hardware follows a stream by some lines, within one page."""

from collections.abc import Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.terms import substitute

LINE_BYTES = 64
"""Of a cache line, on every CPU that the rules are for."""

_READ, _INTO_LEVEL_2, _DATA = 0, 2, 1  # operands of LLVM's intrinsic

_realize = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")


def prefetch(sch: s_tir.Schedule, asks: Mapping[LoopRV, Sequence[Any]]) -> s_tir.Schedule:
    """Asks for elements at the beginning of each iteration of some loops.

    An address outside of its buffer does no harm: a prefetch does not fault.

    Args:
        sch: the schedule, at its end.
        asks: loads of one element of each cache line, by the loop whose iterations ask for it.
    """
    statements = {
        sch.get(loop).loop_var: [_ask(load) for load in loads] for loop, loads in asks.items()
    }

    def insert(loop: tirx.For) -> tirx.For:
        before = statements.get(loop.loop_var)
        if not before:
            return loop
        return tirx.For(
            loop.loop_var,
            loop.min,
            loop.extent,
            loop.kind,
            tirx.SeqStmt([*before, loop.body]),
            loop.thread_binding,
            loop.annotations,
        )

    func = sch.mod["main"]
    body = tvm_ffi.structural_map(func.body, (tirx.For, insert))
    return s_tir.Schedule(IRModule({"main": func.with_body(body)}))


def loads_of(sch: s_tir.Schedule, block: SBlockRV) -> list[Any]:
    """The loads of a block, their indices in terms of its loops' variables."""
    realize = _realize(sch, block)
    variables = [it.var for it in realize.block.iter_vars]
    values = dict(zip(variables, realize.iter_values, strict=True))
    found: list[Any] = []

    def note(load: ir.TensorLoad) -> None:
        indices = [substitute(index, values) for index in load.indices]
        found.append(tirx.BufferLoad(load.source, indices))

    tvm_ffi.structural_walk(realize.block.body, [(ir.TensorLoad, note)])
    return found


def at(load: Any, places: Mapping[Any, Any]) -> Any:
    """The load with loop variables replaced."""
    indices = [substitute(index, dict(places)) for index in load.indices]
    return tirx.BufferLoad(load.source, indices)


def _ask(load: Any) -> s_tir.SBlockRealize:
    operands = (tirx.const(value, "int32") for value in (_READ, _INTO_LEVEL_2, _DATA))
    call = tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(load), *operands)
    block = s_tir.SBlock([], [], [], "prefetch", tirx.Evaluate(call))
    return s_tir.SBlockRealize([], tirx.const(1, "bool"), block)
