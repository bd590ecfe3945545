"""What schedule rules ask about loops: strides of accesses, which loops are one, how much work."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError

from tvmopt_schedules.cpu.code.conditions import conditions
from tvmopt_schedules.cpu.code.terms import substitute, variables
from tvmopt_schedules.cpu.machine import Machine

PARALLEL_WORK = 8 * 1024
"""Weighted operations (see `work`) under which a kernel stays on one core.

From launch to join, a parallel region of TVM's pool takes 0.9 us while its workers spin, as they do
between the kernels of a run (`tvmopt doctor` measures it); one core adds 8 Ki numbers in 0.9 us. A
kernel that breaks even is cut all the same: on one core, it would read half of its operands from
the other's cache, at 33 GB/s instead of 117. With 8 times as much (here and in `PARALLEL_FLOPS`),
two threads take 4 % longer for MobileNetV2, 7 % for MobileNetV3-small and 2 % for EfficientNet-B0.
"""

PARALLEL_FLOPS = 16 * PARALLEL_WORK
"""The same for sums of products, of which a core makes more than 100 in a nanosecond."""

NOT_LEGAL = (ScheduleError, RuntimeError, ValueError)
"""What TVM raises where a schedule primitive does not apply."""

_realize = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")

_POLYNOMIAL_CYCLES = 12.0  # one vector; two instructions a cycle

_TRANSCENDENTAL = {"tirx.exp", "tirx.erf", "tirx.tanh", "tirx.sigmoid", "tirx.log", "tirx.pow"}


def attempt(primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Applies a schedule primitive; False where it is not legal, with the schedule unchanged."""
    try:
        primitive(*args, **kwargs)
    except NOT_LEGAL:
        return False
    return True


def leaf_blocks(sch: s_tir.Schedule) -> list[SBlockRV]:
    """The blocks under the root in order of execution; none in a function without blocks."""
    try:
        return list(sch.get_child_blocks(sch.get_sblock("root")))
    except ScheduleError:
        return []


def extent(sch: s_tir.Schedule, loop: LoopRV) -> int | None:
    """The loop's extent; None where it is not a constant."""
    value = sch.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else None


def split_axes(sch: s_tir.Schedule, block: SBlockRV) -> tuple[list[LoopRV], list[LoopRV]]:
    """The block's loops that bind data-parallel axes only, and all others."""
    realize = _realize(sch, block)
    parallel: set[Any] = set()
    others: set[Any] = set()
    for value, it in zip(realize.iter_values, sch.get(block).iter_vars, strict=True):
        used = variables(value)
        (parallel if it.iter_type == tirx.IterVar.DataPar else others).update(used)
    loops = list(sch.get_loops(block))
    free = [loop for loop in loops if sch.get(loop).loop_var not in others]
    return free, [loop for loop in loops if sch.get(loop).loop_var in others]


def leading_free_loops(sch: s_tir.Schedule, block: SBlockRV) -> list[LoopRV]:
    """The block's outermost loops down to the first that is not purely data-parallel."""
    free = {sch.get(loop).loop_var for loop in split_axes(sch, block)[0]}
    return list(takewhile(lambda loop: sch.get(loop).loop_var in free, sch.get_loops(block)))


def is_spatial(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether every axis of the block is data-parallel."""
    return all(it.iter_type == tirx.IterVar.DataPar for it in sch.get(block).iter_vars)


def accesses(sch: s_tir.Schedule, block: SBlockRV) -> list[Any]:
    """Flat offsets, in elements, of all loads and stores of the block, in terms of its loops."""
    realize = _realize(sch, block)
    values = dict(zip((it.var for it in realize.block.iter_vars), realize.iter_values, strict=True))
    found: list[Any] = []

    def add(buffer: Any, indices: Sequence[Any]) -> None:
        offset: Any = tirx.const(0, "int64")
        for index, size in zip(indices, buffer.shape, strict=True):
            offset = offset * size.astype("int64") + index.astype("int64")
        found.append(substitute(offset, values))

    def load(node: Any) -> None:
        add(node.source, node.indices)

    def store(node: Any) -> None:
        add(node.buffer, node.indices)

    callbacks = [(ir.TensorLoad, load), (tirx.BufferStore, store)]
    tvm_ffi.structural_walk(realize.block.body, callbacks)
    return found


class Strides:
    """By how many elements each access of a block moves when a loop advances by one."""

    def __init__(self, sch: s_tir.Schedule, block: SBlockRV) -> None:
        analyzer = sym.Analyzer()
        for loop in sch.get_loops(block):
            node = sch.get(loop)
            analyzer.bind(node.loop_var, ir.Range.from_min_extent(node.min, node.extent))
        self._sch = sch
        self._analyzer = analyzer
        # Before a step is taken, which leads out of a block: `(16 * i + j) // 16` is `i` before it.
        self._offsets = [analyzer.simplify(offset) for offset in accesses(sch, block)]

    def along(self, loop: LoopRV) -> list[int | None]:
        """One stride for each access, in the order of execution; None: not a constant."""
        var = self._sch.get(loop).loop_var
        found: list[int | None] = []
        for offset in self._offsets:
            if var not in variables(offset):
                found.append(0)
                continue
            step = self._analyzer.simplify(substitute(offset, {var: var + 1}) - offset)
            found.append(int(step) if isinstance(step, tirx.IntImm) else None)
        return found


def contiguous_groups(
    sch: s_tir.Schedule, block: SBlockRV, loops: Sequence[LoopRV]
) -> list[list[LoopRV]]:
    """Splits nested loops, outermost first, into runs that every access walks through like one.

    Fusing a run keeps all strides constant: `for i, j: y[i, j] = x[i, j]` is one run,
    `for i, j: y[i, j] = x[i, j] + b[j]` is two. A loop that decides a condition stays alone.
    """
    groups: list[list[LoopRV]] = []
    for loop, joins in zip(loops, joints(sch, block, loops), strict=True):
        if joins:
            groups[-1].append(loop)
        else:
            groups.append([loop])
    return groups


def joints(sch: s_tir.Schedule, block: SBlockRV, loops: Sequence[LoopRV]) -> list[bool]:
    """For each loop, whether it and the one around it are walked through like one."""
    strides = Strides(sch, block)
    deciding = conditions(sch, block).deciding
    found: list[bool] = []
    for outer, inner in zip([None, *loops], loops, strict=False):
        if outer is None:
            found.append(False)
        elif extent(sch, outer) == 1 or extent(sch, inner) == 1:
            found.append(True)
        elif {sch.get(outer).loop_var, sch.get(inner).loop_var} & deciding:
            found.append(False)
        else:
            found.append(_is_one(sch, strides, outer, inner))
    return found


def _is_one(sch: s_tir.Schedule, strides: Strides, outer: LoopRV, inner: LoopRV) -> bool:
    size = extent(sch, inner)
    if size is None:
        return False
    pairs = zip(strides.along(outer), strides.along(inner), strict=True)
    return all(o is not None and i is not None and o == i * size for o, i in pairs)


def fuse(sch: s_tir.Schedule, loops: Sequence[LoopRV]) -> LoopRV:
    """One loop for several nested ones."""
    return loops[0] if len(loops) == 1 else sch.fuse(*loops)


def work(sch: s_tir.Schedule, block: SBlockRV) -> int:
    """Iterations of the block, each weighted by its arithmetic: a transcendental counts as 4."""
    weight = 1

    def call(node: Any) -> None:
        nonlocal weight
        name = node.op.name if isinstance(node.op, ir.Op) else ""
        weight += 4 * (name in _TRANSCENDENTAL)

    tvm_ffi.structural_walk(sch.get(block).body, [(ir.Call, call)])
    sizes = [extent(sch, loop) for loop in sch.get_loops(block)]
    return weight * prod(PARALLEL_WORK if size is None else size for size in sizes)


def transcendental_cycles(sch: s_tir.Schedule, block: SBlockRV, machine: Machine) -> float:
    """Cycles of the polynomials that stand for the block's `exp`, `erf` ..., a vector at a time."""
    count = transcendentals(sch, block)
    results = prod(extent(sch, loop) or 1 for loop in sch.get_loops(block))
    return results / machine.lanes * count * _POLYNOMIAL_CYCLES


def transcendentals(sch: s_tir.Schedule, block: SBlockRV) -> int:
    """How often `exp`, `erf`, `tanh` ... stand in the block's body."""
    count = 0

    def note(call: ir.Call) -> None:
        nonlocal count
        count += isinstance(call.op, ir.Op) and call.op.name in _TRANSCENDENTAL

    tvm_ffi.structural_walk(sch.get(block).body, [(ir.Call, note)])
    return count


def lanes_for(sch: s_tir.Schedule, block: SBlockRV, lanes: int) -> int:
    """Elements per vector: `lanes` float32, more where every element is smaller."""
    block_node = sch.get(block)
    sizes = [(region.source.dtype.itemsize) for region in [*block_node.reads, *block_node.writes]]
    return lanes * max(1, 4 // max(sizes, default=4))


def is_cheap(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether computing an element again costs no more than storing it and reading it back."""
    loads = 0
    costly = False

    def load(_node: Any) -> None:
        nonlocal loads
        loads += 1

    def call(node: Any) -> None:
        nonlocal costly
        costly = costly or (isinstance(node.op, ir.Op) and node.op.name in _TRANSCENDENTAL)

    callbacks = [(ir.TensorLoad, load), (ir.Call, call)]
    tvm_ffi.structural_walk(sch.get(block).body, callbacks)
    return loads <= 1 and not costly


def selecting_vars(sch: s_tir.Schedule, block: SBlockRV, buffers: set[Any]) -> set[Any]:
    """The variables of the loops that select the elements which the block reads from `buffers`."""
    realize = _realize(sch, block)
    values = dict(zip((it.var for it in realize.block.iter_vars), realize.iter_values, strict=True))
    used: set[Any] = set()

    def load(node: Any) -> None:
        if node.source in buffers:
            for index in node.indices:
                used.update(variables(substitute(index, values)))

    tvm_ffi.structural_walk(realize.block.body, [(ir.TensorLoad, load)])
    return used


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
