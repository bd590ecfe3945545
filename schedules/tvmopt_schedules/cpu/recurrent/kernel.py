"""The kernel of a recurrent layer: all steps in one function, its code independent of their number.

A step multiplies the state with packed weights, block of hidden units by block, and updates the
units of the block while their products are in registers or in the level-1 cache.
"""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, AttrStmt, BufferStore, ForKind, IfThenElse, SeqStmt

from tvmopt_schedules.cpu.compute.recurrent import Layer
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.recurrent.block import Block
from tvmopt_schedules.cpu.recurrent.buffers import Buffers, grid, loop, sequence, variable, zero
from tvmopt_schedules.cpu.recurrent.plan import Plan
from tvmopt_schedules.prediction import CYCLES, PIECES

RECURRENT_KERNEL = "tvmopt.recurrent_kernel"
"""Attribute of a PrimFunc that `recurrent_kernel` made: it has its loops already."""


def recurrent_kernel(machine: Machine, layer: Layer, plan: Plan) -> tirx.PrimFunc:
    """The kernel of a float32 layer whose weights `pack_weight` packed for the plan's tiles.

    Its parameters are the projected inputs `[T, B, D * G * H]`, the weights of each phase, the
    initial states, the cell's vectors and the lengths if it has such; then, its results: the
    states of all steps `[T, D, B, H]` and the last ones `[D, B, H]`.
    """
    buffers = Buffers(layer, plan.tiles, machine.lanes)
    run = _shared_steps(buffers, plan) if plan.parts > 1 else _own_steps(buffers, plan)
    allocations = [AllocBuffer(one) for one in buffers.scratch]
    body = SeqStmt([*allocations, *_begin(buffers), run, *_end(buffers)])
    pieces = plan.parts if plan.parts > 1 else layer.directions if plan.spread_directions else 1
    attributes = {
        "tirx.noalias": True,
        "s_tir": True,
        RECURRENT_KERNEL: True,
        CYCLES: round(plan.cycles),
        PIECES: pieces,
    }
    func: Any = tirx.PrimFunc(buffers.parameters, body)
    for name, value in attributes.items():
        func = func.with_attr(name, value)
    return func


def _own_steps(buffers: Buffers, plan: Plan) -> Any:
    """Each direction from its first step to its last, on one core or on a core each."""
    layer, direction = buffers.layer, variable("d")
    backwards = buffers.step % 2 if plan.turns else None
    phases: list[Any] = []
    for phase in range(len(layer.cell.phases)):
        count, index = buffers.blocks(phase), variable("i")
        block = index if backwards is None else index + backwards * (count - 1 - 2 * index)
        phases.append(loop(index, count, Block(buffers, phase, direction, block, backwards).code()))
    steps = loop(buffers.step, layer.steps, sequence(phases))
    kind = ForKind.PARALLEL if plan.spread_directions else ForKind.SERIAL
    return loop(direction, layer.directions, steps, kind)


def _shared_steps(buffers: Buffers, plan: Plan) -> Any:
    """All cores in one parallel region, with a barrier after each phase of each step.

    A core has the same blocks in all steps, so that its part of the weights stays in its cache.
    """
    backwards = buffers.step % 2 if plan.turns else None
    phases: list[Any] = []
    for phase in range(len(buffers.layer.cell.phases)):
        blocks = buffers.blocks(phase)
        total = blocks * buffers.layer.directions
        share = -(-total // plan.parts)
        part, index = variable("part"), variable("i")
        turned = index if backwards is None else index + backwards * (share - 1 - 2 * index)
        number = part * share + turned
        direction: Any = tirx.const(0, "int32")
        block = number
        if buffers.layer.directions > 1:
            direction, block = tirx.floordiv(number, blocks), tirx.floormod(number, blocks)
        code = Block(buffers, phase, direction, block, backwards).code()
        if total % share:
            code = IfThenElse(number < total, code, None)
        parts = loop(part, -(-total // share), loop(index, share, code), ForKind.PARALLEL)
        phases.append(_pragma("parallel_barrier_when_finish", parts))
    return _pragma(
        "parallel_launch_point", loop(buffers.step, buffers.layer.steps, sequence(phases))
    )


def _pragma(name: str, body: Any) -> Any:
    one = tirx.const(1, "int32")
    return AttrStmt(one, f"pragma_{name}", one, body)


def _begin(buffers: Buffers) -> list[Any]:
    """Copies initial states and vectors; the padding becomes zero."""
    hidden, extents = buffers.layer.hidden, (buffers.layer.directions, buffers.layer.batch)
    code: list[Any] = []

    def inside(j: Any, load: Callable[[], Any]) -> Any:
        return load() if buffers.padded == hidden else tirx.if_then_else(j < hidden, load(), zero())

    for name, first in buffers.first.items():
        d, b, j = variable("d"), variable("b"), variable("j")
        value = inside(j, lambda at=(d, b, j), first=first: first[at])
        where = (buffers.h, [0, d, b, j]) if name == "h" else (buffers.values[name], [d, b, j])
        code.append(
            grid([d, b, j], [*extents, buffers.padded], BufferStore(where[0], value, where[1]))
        )
    for name, vector in buffers.vectors.items():
        d, j = variable("d"), variable("j")
        value = inside(j, lambda at=(d, j), vector=vector: vector[at])
        store = BufferStore(buffers.padded_vectors[name], value, [d, j])
        code.append(grid([d, j], [buffers.layer.directions, buffers.padded], store))
    return code


def _end(buffers: Buffers) -> list[Any]:
    """Copies the last states out."""
    layer = buffers.layer
    code: list[Any] = []
    for name, last in buffers.last.items():
        at = [variable("d"), variable("b"), variable("j")]
        d, b, j = at
        value = (
            buffers.h[layer.steps % 2, d, b, j] if name == "h" else buffers.values[name][d, b, j]
        )
        extents = [layer.directions, layer.batch, layer.hidden]
        code.append(grid(at, extents, BufferStore(last, value, at)))
    return code
