"""Where a kernel reads one of its tensors and writes another: elements, loops around, order."""

from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

_PREFETCH = "tirx.prefetch"
_ADDRESS_OF = "tirx.address_of"

_PASSED_ON = "its kernel passes its address on"


class UnclearError(Exception):
    """A tensor is used in a way that this module does not follow; says how."""


@dataclass(frozen=True)
class Access:
    """One load or store in a kernel's text.

    Attributes:
        indices: of the element, in terms of the variables of loops.
        trail: the way from the kernel's root: loops, and positions among statements in the order
            of their execution. A store reads before it writes.
        conditions: what holds where the access is made.
    """

    indices: tuple[Any, ...]
    trail: tuple[Any, ...]
    conditions: tuple[Any, ...] = ()

    @property
    def loops(self) -> list[tirx.For]:
        """The loops around it, from the outside in."""
        return [step for step in self.trail if isinstance(step, tirx.For)]


@dataclass
class Accesses:
    """All loads of `read` and all stores to `written` in a kernel.

    A prefetch counts as no load: it changes no result.
    """

    read: Any
    written: Any
    loads: list[Access] = field(default_factory=list[Access])
    stores: list[Access] = field(default_factory=list[Access])

    @staticmethod
    def of(func: tirx.PrimFunc, read: Any, written: Any) -> "Accesses":
        """Those of a kernel.

        Raises:
            UnclearError: either tensor is used otherwise.
        """
        made = Accesses(read, written)
        made._statement(func.body, _Place(), {})
        return made

    def _statement(self, node: Any, place: "_Place", values: dict[Any, Any]) -> None:
        match node:
            case tirx.SeqStmt():
                for at, one in enumerate(node.seq):
                    self._statement(one, place.then(at), values)
            case tirx.For():
                self._expression(node.min, place, values)
                self._expression(node.extent, place, values)
                loop = _with_bounds(node, _substitute(node.min, values), node.extent, values)
                self._statement(node.body, place.then(loop), values)
            case s_tir.SBlockRealize():
                self._block(node, place, values)
            case tirx.IfThenElse():
                self._expression(node.condition, place.then(0), values)
                holds = _substitute(node.condition, values)
                self._statement(node.then_case, place.then(1).where(holds), values)
                if node.else_case is not None:
                    otherwise = place.then(2).where(tirx.Not(holds))
                    self._statement(node.else_case, otherwise, values)
            case tirx.Bind():
                self._expression(node.value, place, values)
                values[node.var] = _substitute(node.value, values)
            case tirx.BufferStore():
                self._store(node, place, values)
            case tirx.Evaluate() if _is_prefetch(node.value):
                pass
            case tirx.Evaluate():
                self._expression(node.value, place, values)
            case _:
                self._refuse_mention(node)

    def _block(self, node: Any, place: "_Place", values: dict[Any, Any]) -> None:
        block = node.block
        axes = [axis.var for axis in block.iter_vars]
        inner = dict(values)
        for axis, value in zip(axes, node.iter_values, strict=True):
            self._expression(value, place, values)
            inner[axis] = _substitute(value, values)
        for match in block.match_buffers:
            self._refuse_mention(match)
        held = place.where(_substitute(node.predicate, values))
        if block.init is not None:
            self._statement(block.init, held.then(0), inner)
        self._statement(block.body, held.then(1), inner)

    def _store(self, node: Any, place: "_Place", values: dict[Any, Any]) -> None:
        if node.buffer.same_as(self.read):
            raise UnclearError("its kernel writes to it already")
        for expr in (node.value, *node.indices):
            self._expression(expr, place.then(0), values)
        if node.buffer.same_as(self.written):
            self.stores.append(place.then(1).access(node.indices, values))

    def _expression(self, expr: Any, place: "_Place", values: dict[Any, Any]) -> None:
        """Notes the loads of `read` in an expression; `written` may only be loaded, too."""
        loads: list[ir.TensorLoad] = []
        calls: list[ir.Call] = []
        tvm_ffi.structural_walk(expr, [(ir.TensorLoad, loads.append), (ir.Call, calls.append)])
        own = [load for load in loads if self._is_either(load.source)]
        if self._mentions(expr) != len(own):
            raise UnclearError(_PASSED_ON)
        for call in calls:
            if isinstance(call.op, ir.Op) and call.op.name == _ADDRESS_OF:
                self._refuse_mention(call)
        for load in own:
            if load.source.same_as(self.read):
                self.loads.append(place.access(load.indices, values))

    def _refuse_mention(self, node: Any) -> None:
        if self._mentions(node):
            raise UnclearError(_PASSED_ON)

    def _mentions(self, node: Any) -> int:
        found: list[bool] = []
        tvm_ffi.structural_walk(node, [(ir.Var, lambda var: found.append(self._is_either(var)))])
        return sum(found)

    def _is_either(self, var: Any) -> bool:
        return var.same_as(self.read) or var.same_as(self.written)


@dataclass(frozen=True)
class _Place:
    trail: tuple[Any, ...] = ()
    conditions: tuple[Any, ...] = ()

    def then(self, step: Any) -> "_Place":
        return _Place((*self.trail, step), self.conditions)

    def where(self, condition: Any) -> "_Place":
        return _Place(self.trail, (*self.conditions, condition))

    def access(self, indices: Any, values: dict[Any, Any]) -> Access:
        return Access(
            tuple(_substitute(index, values) for index in indices), self.trail, self.conditions
        )


def _with_bounds(node: tirx.For, begin: Any, extent: Any, values: dict[Any, Any]) -> tirx.For:
    return tirx.For(node.loop_var, begin, _substitute(extent, values), node.kind, node.body)


def _is_prefetch(expr: Any) -> bool:
    return isinstance(expr, ir.Call) and isinstance(expr.op, ir.Op) and expr.op.name == _PREFETCH


def _substitute(node: Any, values: dict[Any, Any]) -> Any:
    if not values:
        return node
    return tvm_ffi.structural_map(node, [(ir.Var, lambda var: values.get(var, var))])
