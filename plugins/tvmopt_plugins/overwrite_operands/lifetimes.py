"""Which values of a function share memory, and when it is used last."""

from typing import Any

import tvm
from tvm import relax

_VIEWS = frozenset({"relax.reshape", "relax.memory.view", "relax.memory.ensure_zero_offset"})
_KERNEL_CALLS = frozenset({"relax.call_tir", "relax.call_tir_inplace"})


class Lifetimes:
    """The memory of all variables of `main`, each named by the variable that was first in it.

    What is not known to be a kernel's own result, or a view of one, is nobody's to write to:
    inputs, and what other calls return.
    """

    def __init__(self, main: Any) -> None:
        self._memory: dict[relax.Var, frozenset[relax.Var]] = {}
        self._last_use: dict[relax.Var, int] = {}
        self._foreign: set[relax.Var] = set()
        for param in main.params:
            self._begin(param, is_foreign=True)
        bindings: list[Any] = [b for block in main.body.blocks for b in block.bindings]
        for at, binding in enumerate(bindings):
            used = list(relax.analysis.free_vars(binding.value))
            for var in used:
                self._use(var, at)
            self._bind(binding, used)
        for var in relax.analysis.free_vars(main.body.body):
            self._use(var, len(bindings))

    def memory(self, expr: relax.Expr) -> frozenset[relax.Var]:
        """Where an operand may lie; nowhere that is written to, if it is a constant."""
        return self._memory.get(expr, frozenset()) if isinstance(expr, relax.Var) else frozenset()

    def is_free_after(self, memory: relax.Var, at: int) -> bool:
        """Whether only kernels use this memory, and none after binding number `at`."""
        return memory not in self._foreign and self._last_use[memory] <= at

    def take_over(self, result: relax.Var, memory: relax.Var) -> None:
        """Notes that a result is written to `memory`, and what is viewed in it is there, too."""
        for var, found in self._memory.items():
            if result in found:
                self._memory[var] = found - {result} | {memory}
        self._last_use[memory] = max(self._last_use[memory], self._last_use.pop(result))

    def _begin(self, var: relax.Var, *, is_foreign: bool = False) -> None:
        self._memory[var] = frozenset({var})
        self._last_use.setdefault(var, -1)
        if is_foreign:
            self._foreign.add(var)

    def _use(self, var: relax.Var, at: int) -> None:
        for memory in self._memory.get(var, ()):
            self._last_use[memory] = at

    def _bind(self, binding: Any, used: list[relax.Var]) -> None:
        var, value = binding.var, binding.value
        op = _op_name(value)
        if op == "relax.call_tir":
            self._begin(var)
        elif op == "relax.call_tir_inplace":
            places = [value.args[1].fields[int(at)] for at in value.attrs.inplace_indices]
            self._memory[var] = frozenset[relax.Var]().union(*map(self.memory, places))
        elif op == "relax.builtin.alloc_tensor":
            self._begin(var)
        elif op in _VIEWS:
            self._memory[var] = self.memory(value.args[0])
        elif isinstance(value, relax.Tuple | relax.TupleGetItem | relax.Var):
            self._memory[var] = frozenset[relax.Var]().union(*map(self.memory, used))
        else:
            self._begin(var, is_foreign=True)
            self._memory[var] = self._memory[var].union(*map(self.memory, used))


def _op_name(value: relax.Expr) -> str:
    is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
    return value.op.name if is_call else ""
