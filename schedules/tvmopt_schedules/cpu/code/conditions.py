"""Where a loop changes what its block does: the edges of padding, concatenation and tiling.

A condition that differs between the lanes of a vector turns the whole vector into scalar code. The
iterations at which conditions change cut the loop, so that each piece has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.terms import is_conditional, substitute, variables

_realize = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")


@dataclass(frozen=True)
class Conditions:
    """The comparisons that guard parts of a block, and the loop variables that decide them."""

    comparisons: tuple[Any, ...]
    deciding: frozenset[Any]


def conditions(sch: s_tir.Schedule, block: SBlockRV) -> Conditions:
    """Reads the conditions of every `if_then_else` in the block, in terms of its loops."""
    realize = _realize(sch, block)
    values = dict(zip((it.var for it in realize.block.iter_vars), realize.iter_values, strict=True))
    found: list[Any] = []

    def call(node: Any) -> None:
        if is_conditional(node):
            found.extend(_comparisons(substitute(node.args[0], values)))

    tvm_ffi.structural_walk(realize.block.body, [(ir.Call, call)])
    loops = {sch.get(loop).loop_var for loop in sch.get_loops(block)}
    deciding = {var for one in found for var in variables(one) if var in loops}
    return Conditions(tuple(found), frozenset(deciding))


def _comparisons(condition: Any) -> list[Any]:
    if isinstance(condition, (tirx.And, tirx.Or)):
        return [*_comparisons(condition.a), *_comparisons(condition.b)]
    if isinstance(condition, tirx.Not):
        return _comparisons(condition.a)
    return [condition]


def breaks(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> list[int]:
    """Iterations of the loop, in ascending order, at which a condition may change its value."""
    node = sch.get(loop)
    last = int(node.extent)
    found: set[int] = set()
    for comparison in conditions(sch, block).comparisons:
        found.update(_changes(comparison, node.loop_var))
    return sorted(at for at in found if 0 < at < last)


def _changes(comparison: Any, var: Any) -> Iterator[int]:
    if not isinstance(comparison, (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)):
        return
    linear = _linear(comparison.a - comparison.b, var)
    if linear is None:
        return
    factor, constant = linear
    strict = isinstance(comparison, (tirx.LT, tirx.GE))  # changes where the difference reaches 0
    if factor < 0:
        factor, constant, strict = -factor, -constant, not strict
    zero = -(constant // factor)  # the first iteration with factor * var + constant >= 0
    reaches_zero = constant % factor == 0
    is_equality = isinstance(comparison, (tirx.EQ, tirx.NE))
    if is_equality or strict or not reaches_zero:
        yield zero
    if reaches_zero and (is_equality or not strict):
        yield zero + 1


def _linear(expr: Any, var: Any) -> tuple[int, int] | None:
    """Factor and constant of `factor * var + constant`; None for other expressions."""
    parts = sym.detect_linear_equation(expr, [var])
    if len(parts) != 2 or not all(isinstance(part, tirx.IntImm) for part in parts):
        return None
    factor, constant = (int(part) for part in parts)
    return (factor, constant) if factor else None


def period(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> int | None:
    """The length of the pieces in which the loop's remainders and quotients are simple.

    `x[j // 64, j % 64]` is contiguous for 64 iterations. None where there is no such length, or it
    does not divide the loop.
    """
    size = int(sch.get(loop).extent)
    found = divisors(sch, block, loop)
    shortest = min(found, default=size)
    fits = shortest < size and size % shortest == 0
    return shortest if fits and all(one % shortest == 0 for one in found) else None


def divisors(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> set[int]:
    """What the block divides the loop's variable by, for quotients or remainders."""
    node = sch.get(loop)
    realize = _realize(sch, block)
    values = dict(zip((it.var for it in realize.block.iter_vars), realize.iter_values, strict=True))
    found: set[int] = set()

    def divided(expr: Any) -> None:
        if not isinstance(expr.b, tirx.IntImm):
            return
        linear = _linear(substitute(expr.a, values), node.loop_var)
        if linear is not None and linear[0] == 1 and linear[1] % int(expr.b) == 0:
            found.add(int(expr.b))

    callbacks = [((tirx.FloorMod, tirx.FloorDiv), divided)]
    tvm_ffi.structural_walk(realize.block.body, callbacks)
    return found
