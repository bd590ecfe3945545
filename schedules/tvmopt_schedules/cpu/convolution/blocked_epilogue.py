"""What follows an operator on blocked channels: joined into its last block, or left behind it."""

from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, s_tir
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvmopt_schedules.cpu.code.blocks import Kernel, is_reduction
from tvmopt_schedules.cpu.code.loops import NOT_LEGAL, PARALLEL_WORK, work
from tvmopt_schedules.cpu.code.terms import IF_THEN_ELSE
from tvmopt_schedules.cpu.machine import Machine

_PLAIN_CALLS = frozenset({IF_THEN_ELSE, "prim.likely", "tirx.fabs"})


def close_kernel(
    sch: s_tir.Schedule, kernel: Kernel, *, pixels: bool = False, cut: bool = False
) -> tuple[SBlockRV, tuple[str, ...]]:
    """Makes one block of all that follows the anchor element by element.

    Bias, residual and activation are inlined into the last block of the anchor's own shape, which
    reads the anchor's result and will be the one that its tiles are computed at.

    Args:
        sch: the schedule.
        kernel: the blocks.
        pixels: the anchor's result has one dimension for rows and columns, and a block that tells
            them apart follows; the last block will not tell them apart either.
        cut: a store may have a predicate where a move leaves results out.

    Returns:
        That block, and the names of what comes after it (changes of layout).

    Raises:
        ScheduleError: something that follows cannot be joined.
    """
    anchor = sch.get_sblock(kernel.anchor)
    count = 0
    results = [sch.get(anchor).writes[0].source]
    if pixels:
        count = 1
        results = [sch.get(sch.get_sblock(kernel.after[0])).writes[0].source]
    for name in kernel.after[count:]:
        block = sch.get_sblock(name)
        if is_reduction(sch, block) or not _is_elementwise(sch.get(block), results):
            break
        results.append(sch.get(block).writes[0].source)
        count += 1
    chain, moves = kernel.after[:count], kernel.after[count:]
    for name in chain[:-1]:
        sch.compute_inline(sch.get_sblock(name))
    last = sch.get_sblock(chain[-1]) if chain else sch.cache_write(anchor, 0, "global")
    vectors = _moves_of_vectors(sch, last, moves)
    if vectors and _store_in_place(sch, last, vectors, cut=cut):
        moves = moves[len(vectors) :]
    if pixels:
        width = int(sch.get(last).iter_vars[3].dom.extent)
        sch.transform_block_layout(last, lambda n, c, y, x, b: (n, c, y * width + x, b))
    return last, moves


def _store_in_place(
    sch: s_tir.Schedule, last: SBlockRV, moves: tuple[str, ...], *, cut: bool
) -> bool:
    """Makes the last block store where a move of whole vectors would put its results.

    So where phases of a transposed convolution are interleaved: a 2 x 2 kernel with stride 2 takes
    15 % less time, a depthwise one of 3 x 3 a third. Where results are cut off (`cut`), predicates
    cost a convolution over channels 9 % more than they save.
    """
    if not cut and _size(sch, last) != _size(sch, sch.get_sblock(moves[-1])):
        return False
    trial = sch.copy()
    for tried in (trial, sch):
        *inner, store = [tried.get_sblock(name) for name in moves]
        try:
            for block in inner:
                tried.compute_inline(block)
            tried.reverse_compute_inline(store)
        except NOT_LEGAL:
            return False
    return True


def _size(sch: s_tir.Schedule, block: SBlockRV) -> int:
    return prod(int(dim) for dim in sch.get(block).writes[0].source.shape)


def _moves_of_vectors(
    sch: s_tir.Schedule, last: SBlockRV, moves: tuple[str, ...]
) -> tuple[str, ...]:
    """The first moves, down to one whose innermost axis is not that of what it reads."""
    results = sch.get(last).writes[0].source
    for count, name in enumerate(moves):
        block = sch.get(sch.get_sblock(name))
        lane = block.iter_vars[-1].var
        read = _innermost_indices(block, results)
        if not read or not all(index.same_as(lane) for index in read):
            return moves[:count]
        results = block.writes[0].source
    return moves


def _innermost_indices(block: s_tir.SBlock, buffer: Any) -> list[Any]:
    """The last index of each load from the buffer."""
    found: list[Any] = []

    def note(load: ir.TensorLoad) -> None:
        if load.source.same_as(buffer):
            found.append(load.indices[-1])

    tvm_ffi.structural_walk(block.body, [(ir.TensorLoad, note)])
    return found


def store_tile(
    sch: s_tir.Schedule,
    last: SBlockRV,
    tile: tuple[LoopRV, ...],
    lane: LoopRV,
    *,
    straight: bool = False,
) -> None:
    """Schedules the inner loops of the last block, over the results that registers hold.

    They become straight code, unless the epilogue has an `exp` or the like: some dozen copies of a
    polynomial cost more to compile than loops cost to run. `straight` has it so in any case.
    """
    sch.vectorize(lane)
    if straight or calls(sch.get(last)) == 0:
        for loop in tile:
            sch.unroll(loop)


def calls(block: s_tir.SBlock) -> int:
    """How many functions, such as `exp`, a block calls: each is a polynomial when expanded."""
    found = 0

    def note(call: ir.Call) -> None:
        nonlocal found
        found += isinstance(call.op, ir.Op) and call.op.name not in _PLAIN_CALLS

    tvm_ffi.structural_walk(block.body, [(ir.Call, note)])
    return found


def schedule_moves(sch: s_tir.Schedule, names: tuple[str, ...], machine: Machine) -> None:
    """Loops for the changes of layout behind a kernel: inlined into one, vectorized.

    They are parallel where that pays.
    """
    for name in names[:-1]:
        sch.compute_inline(sch.get_sblock(name))
    for name in names[-1:]:
        block = sch.get_sblock(name)
        is_big = work(sch, block) >= PARALLEL_WORK
        *outer, inner = sch.get_loops(block)
        if int(sch.get(inner).extent) % machine.lanes == 0:
            _, lane = sch.split(inner, [None, machine.lanes])
            sch.vectorize(lane)
        if outer and is_big:
            sch.parallel(sch.fuse(*outer))


def _is_elementwise(block: s_tir.SBlock, results: list[Any]) -> bool:
    """Whether the block has the shape of `results` and reads them at its own place only."""
    shape = list(results[0].shape)
    variables = [it.var for it in block.iter_vars]
    if not tvm_ffi.structural_equal(list(block.writes[0].source.shape), shape):
        return False
    own: list[bool] = []

    def note(load: ir.TensorLoad) -> None:
        if any(load.source.same_as(result) for result in results):
            own.append(all(i.same_as(v) for i, v in zip(load.indices, variables, strict=True)))

    tvm_ffi.structural_walk(block.body, [(ir.TensorLoad, note)])
    return all(own)
