"""What a schedule is expected to take, as attributes of the kernel that it made.

Whoever schedules a kernel says so by `predict`; where nobody did, the kernel counts as one pass
over its operands (`cpu/rules/predicted.py`). `tvmopt profile` holds them against measured times.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx
from tvm.s_tir.analysis import estimate_tir_flops

from tvmopt_schedules.cpu.code.pairs import in_float32
from tvmopt_schedules.cpu.code.quads import in_int32

CYCLES = "tvmopt.predicted_cycles"
"""Attribute of a scheduled PrimFunc: cycles of one call on one core, an integer."""

PIECES = "tvmopt.predicted_pieces"
"""Attribute of a scheduled PrimFunc: equal parts that cores share; 1 where one core does all."""

FLOPS = "tvmopt.flops"
"""Attribute of a scheduled PrimFunc: its arithmetic operations, where they are not those of the
definition that it was made from."""


@dataclass(frozen=True)
class Prediction:
    """The expected cost of one call of a kernel.

    Attributes:
        cycles: of one core that does everything, memory included.
        pieces: iterations of the parallel loop, 1 where there is none. With `t` threads, the
            busiest core has `ceil(pieces / t)` of them.
    """

    cycles: float
    pieces: int = 1


def predict(sch: s_tir.Schedule, prediction: Prediction) -> s_tir.Schedule:
    """The schedule `sch`, finished, with its prediction attached to the kernel."""
    func = sch.mod["main"]
    func = func.with_attr(CYCLES, max(1, round(prediction.cycles)))
    func = func.with_attr(PIECES, max(1, prediction.pieces))
    return s_tir.Schedule(IRModule({"main": func}))


def prediction_of(func: tirx.PrimFunc) -> Prediction | None:
    """The prediction that the kernel carries; None where nobody made one."""
    attributes = dict((func.attrs or {}).items())
    if CYCLES not in attributes:
        return None
    return Prediction(float(attributes[CYCLES]), int(attributes.get(PIECES, 1)))


def parallel_pieces(func: tirx.PrimFunc) -> int:
    """Iterations of the kernel's largest parallel loop; 1 where there is none."""
    found = [1]

    def note(loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.PARALLEL and isinstance(loop.extent, tirx.IntImm):
            found.append(int(loop.extent))

    tvm_ffi.structural_walk(func.body, [(tirx.For, note)])
    return max(found)


def operations(func: tirx.PrimFunc) -> int:
    """Arithmetic operations of one call of a kernel; 0 where TVM cannot tell."""
    try:
        return int(estimate_tir_flops(IRModule({"main": in_int32(in_float32(func))})))
    except tvm.error.InternalError:
        return 0


def operand_bytes(func: tirx.PrimFunc) -> int:
    """Size of all tensors that the kernel is given, its results and weights among them."""
    return sum(_size_bytes(parameter.ty) for parameter in func.params)


def touched_bytes(func: tirx.PrimFunc) -> list[int]:
    """How much of each of its tensors an unscheduled kernel reads or writes at most, in bytes.

    Less than the whole of what is gathered or sliced from.
    """
    sizes = [_size_bytes(parameter.ty) for parameter in func.params]
    sch = s_tir.Schedule(func)
    try:
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
    except s_tir.ScheduleError:  # a function of statements alone, such as a sort
        return sizes
    counts = [0] * len(sizes)

    def note(buffer: Any, iterations: int) -> None:
        for at, parameter in enumerate(func.params):
            if buffer.same_as(parameter):
                counts[at] += iterations * tvm.DataType(str(buffer.ty.dtype)).itemsize

    for block in blocks:
        extents = [sch.get(loop).extent for loop in sch.get_loops(block)]
        if not all(isinstance(extent, tirx.IntImm) for extent in extents):
            return sizes
        iterations = prod(int(extent) for extent in extents)

        def load(node: Any, iterations: int = iterations) -> None:
            note(node.source, iterations)

        def store(node: Any, iterations: int = iterations) -> None:
            note(node.buffer, iterations)

        body = sch.get(block).body
        tvm_ffi.structural_walk(body, [(ir.TensorLoad, load), (tirx.BufferStore, store)])
    # What no load names is handed over whole, by its address.
    return [min(size, count or size) for size, count in zip(sizes, counts, strict=True)]


def _size_bytes(ty: Any) -> int:
    """Size of an operand; 0 where it depends on the data, or is a scalar."""
    shape = getattr(ty, "shape", [None])
    if not all(isinstance(dim, tirx.IntImm) for dim in shape):
        return 0
    return prod(int(dim) for dim in shape) * ((tvm.DataType(str(ty.dtype)).bits + 7) // 8)
