"""Whether a kernel may write its result to where it reads an operand; by trying all elements.

It may where no element is written before its last read. Iterations of a loop count as unordered,
as other threads or lanes may run them: each common iteration of a load and a store has to have
elements of its own, and in it the load has to come first. Schedules leave tiles that jut out,
divisions and loops of varying length behind, where no algebra of TVM's decides that, so the
elements of all iterations are computed and compared. Lanes, images, and whatever else indexes one
axis by itself, take no part: ResNet-50's kernels take under a second together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm_ffi
from numpy.typing import NDArray
from tvm import ir, tirx

from tvmopt_plugins.overwrite_operands.accesses import Access, UnclearError

_MOST_ITERATIONS = 1 << 24
"""Of one load or store: some seconds and 0.5 GB."""

_UNWRITTEN = -1

_BINARY: dict[Any, Any] = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.FloorDiv: np.floor_divide,
    tirx.FloorMod: np.mod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.EQ: np.equal,
    tirx.NE: np.not_equal,
    tirx.LT: np.less,
    tirx.LE: np.less_equal,
    tirx.GT: np.greater,
    tirx.GE: np.greater_equal,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
}


def conflicts(load: Access, store: Access, shape: Sequence[int]) -> bool:
    """Whether the store may write an element before the load reads it.

    Args:
        load: of a tensor of this shape.
        store: to another one of this shape, which shall take its memory.
        shape: of both.

    Raises:
        UnclearError: an index that depends on data, or too many iterations.
    """
    common = _common(load, store)
    is_before = load.trail[len(common) :] < store.trail[len(common) :]
    shared = [step.loop_var for step in common if isinstance(step, tirx.For)]
    alone = _whole_axes(load, store, shared, shape)
    read, written = (_touched(access, shared, alone, shape) for access in (load, store))
    if alone and not (read.is_inside and written.is_inside):
        read, written = (_touched(access, shared, frozenset(), shape) for access in (load, store))
    owner = np.full(prod(shape), _UNWRITTEN, np.int64)
    owner[written.elements] = written.iterations
    if not np.array_equal(owner[written.elements], written.iterations):
        return True  # an element of two iterations
    found = owner[read.elements]
    own = (found == read.iterations) if is_before else False
    return not bool(np.all((found == _UNWRITTEN) | own))


def reads_what_it_writes(load: Access, store: Access) -> bool:
    """Whether a store's value has the very element that it writes, as a residual is read."""
    return load.trail[:-1] == store.trail[:-1] and tvm_ffi.structural_equal(
        list(load.indices), list(store.indices)
    )


def _common(load: Access, store: Access) -> list[Any]:
    """The steps that lead to both; what follows are their positions in one statement."""
    found: list[Any] = []
    for one, other in zip(load.trail, store.trail, strict=False):
        if one != other:
            break
        found.append(one)
    return found


def _whole_axes(
    load: Access, store: Access, shared: list[Any], shape: Sequence[int]
) -> frozenset[Any]:
    """Loops that index one axis all by themselves, and in the load and the store alike.

    Elements of different iterations have nothing to do with each other, and in all of them it is
    the same: one stands for all.
    """
    found: set[Any] = set()
    for one, other, extent in zip(load.indices, store.indices, shape, strict=True):
        pairs = ((load, one), (store, other))
        if not all(_is_lone(access, index, extent) for access, index in pairs):
            continue
        if one.same_as(other) or (one not in shared and other not in shared):
            found.update((one, other))
    return frozenset(found)


def _is_lone(access: Access, index: Any, extent: int) -> bool:
    if not isinstance(index, ir.Var):
        return False
    loop = next((one for one in access.loops if one.loop_var.same_as(index)), None)
    if loop is None or not _is_constant(loop.min, 0) or not _is_constant(loop.extent, extent):
        return False
    bounds = [bound for one in access.loops for bound in (one.min, one.extent)]
    uses = [*access.indices, *access.conditions, *bounds]
    return sum(_mentions(use, index) for use in uses) == 1


def _is_constant(expr: Any, value: int) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr) == value


def _mentions(expr: Any, var: Any) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(expr, [(ir.Var, lambda one: found.append(one.same_as(var)))])
    return any(found)


@dataclass(frozen=True)
class _Touched:
    """What an access touches.

    Attributes:
        elements: their numbers in memory.
        iterations: the numbers of the shared iterations that touch them.
        is_inside: whether each index is within its axis; loops over several axes at once run
            beyond the last one.
    """

    elements: NDArray[np.int64]
    iterations: NDArray[np.int64]
    is_inside: bool


def _touched(
    access: Access, shared: list[Any], alone: frozenset[Any], shape: Sequence[int]
) -> _Touched:
    loops = access.loops
    values: dict[Any, Any] = {}
    holds: Any = np.True_
    extents: list[int] = []
    number: Any = np.int64(0)
    for at, loop in enumerate(loops):
        begin, extent = _evaluate(loop.min, values), _evaluate(loop.extent, values)
        most = 1 if loop.loop_var in alone else max(int(np.max(extent)), 0)
        steps = np.arange(most).reshape(-1, *[1] * (len(loops) - at - 1))
        holds = np.logical_and(holds, steps < extent)
        values[loop.loop_var] = begin + steps
        extents.append(most)
        if loop.loop_var in shared:
            number = number * most + steps
    if prod(extents) > _MOST_ITERATIONS:
        raise UnclearError("it has too many elements to compare them all")
    for condition in access.conditions:
        holds = np.logical_and(holds, _evaluate(condition, values))
    element: Any = np.int64(0)
    inside: Any = np.True_
    for index, extent in zip(access.indices, shape, strict=True):
        at = _evaluate(index, values)
        inside = inside & (at >= 0) & (at < extent)
        element = element * extent + at
    is_inside = bool(np.all(inside | ~holds))
    # What lies outside the tensor is never read: a condition in the expression is in its way.
    holds = holds & (element >= 0) & (element < prod(shape))
    mask = np.broadcast_to(holds, extents)
    elements, iterations = (np.broadcast_to(one, extents)[mask] for one in (element, number))
    return _Touched(elements, iterations, is_inside)


def _evaluate(expr: Any, values: dict[Any, Any]) -> Any:
    """An expression for all iterations at once."""
    match expr:
        case tirx.IntImm():
            return np.int64(int(expr))
        case ir.Var() if expr in values:
            return values[expr]
        case tirx.Cast():
            return _evaluate(expr.value, values)
        case tirx.Not():
            return np.logical_not(_evaluate(expr.a, values))
        case ir.Call() if getattr(expr.op, "name", "") == "prim.likely":
            return _evaluate(expr.args[0], values)
        case _ if type(expr) in _BINARY:
            return _BINARY[type(expr)](_evaluate(expr.a, values), _evaluate(expr.b, values))
        case _:
            raise UnclearError("its kernel computes where to read or write")
