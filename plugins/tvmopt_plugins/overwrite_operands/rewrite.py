"""Gives results the memory of operands, and kernels one parameter for both."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi
from tvm import ir, relax, tirx

from tvmopt import CompileContext
from tvmopt.rewriting import dtype_of, is_op, shape_of
from tvmopt_plugins.overwrite_operands.accesses import Accesses, UnclearError
from tvmopt_plugins.overwrite_operands.conflicts import conflicts, reads_what_it_writes
from tvmopt_plugins.overwrite_operands.lifetimes import Lifetimes

if TYPE_CHECKING:
    from tvmopt_plugins.overwrite_operands import OverwriteOperands

_OTHER_ELEMENTS = "its kernel reads other elements of it after it has written them"


def overwrite_operands(
    mod: tvm.IRModule, source: "OverwriteOperands", ctx: CompileContext
) -> tvm.IRModule:
    """Finds for each kernel call an operand that dies there, and writes the result over it."""
    chosen = _Chooser(mod, source, ctx).choose()
    if not chosen:
        return mod
    bytes_saved = sum(_size_bytes(var) for var in chosen)
    ctx.found(
        source, "", f"{len(chosen)} results take the place of an operand ({bytes_saved} bytes)"
    )
    return _Writer(mod, chosen).write(ctx)


class _Chooser:
    """Decides, in the order of execution, which calls overwrite which operand."""

    def __init__(self, mod: tvm.IRModule, source: "OverwriteOperands", ctx: CompileContext) -> None:
        self.mod, self.source, self.ctx = mod, source, ctx
        self.main: Any = mod["main"]
        self.lifetimes = Lifetimes(self.main)
        self.obstacles: dict[tuple[str, int], str | None] = {}

    def choose(self) -> dict[relax.Var, int]:
        """The numbers of the operands, by the variables of the results."""
        chosen: dict[relax.Var, int] = {}
        bindings = [b for block in self.main.body.blocks for b in block.bindings]
        for at, binding in enumerate(bindings):
            if not is_op(binding.value, "relax.call_tir") or len(binding.value.args) != 2:
                continue
            for number, memory in self._dying(binding, at):
                obstacle = self._obstacle(binding.value.args[0], number)
                if obstacle is None:
                    chosen[binding.var] = number
                    self.lifetimes.take_over(binding.var, memory)
                    break
                if obstacle:
                    name = binding.value.args[1].fields[number].name
                    why = f"its result is not written over {name}: {obstacle}"
                    self.ctx.missed(self.source, binding.var.name, why)
        return chosen

    def _dying(self, binding: Any, at: int) -> Iterator[tuple[int, relax.Var]]:
        """The operands that the result could replace, and their memory."""
        operands = list(binding.value.args[1].fields)
        places = [self.lifetimes.memory(operand) for operand in operands]
        for number, (operand, place) in enumerate(zip(operands, places, strict=True)):
            if len(place) != 1 or not _is_alike(operand, binding.var):
                continue
            (memory,) = place
            is_whole = _size_bytes(memory) == _size_bytes(operand)
            readers = sum(memory in one for one in places)
            if is_whole and readers == 1 and self.lifetimes.is_free_after(memory, at):
                yield number, memory

    def _obstacle(self, kernel: tvm.ir.GlobalVar, number: int) -> str | None:
        """Why a kernel may not write over its operand; empty where it adds no residual anyway."""
        key = kernel.name_hint, number
        if key not in self.obstacles:
            self.obstacles[key] = _obstacle(self.mod[kernel], number)
        return self.obstacles[key]


def _obstacle(func: Any, number: int) -> str | None:
    if not isinstance(func, tirx.PrimFunc):
        return ""
    operand, result = func.params[number], func.params[-1]
    shape = [int(dim) for dim in result.shape]
    try:
        found = Accesses.of(func, operand, result)
        pairs = [(load, store) for load in found.loads for store in found.stores]
        if not any(reads_what_it_writes(load, store) for load, store in pairs):
            return ""
        bad = any(conflicts(load, store, shape) for load, store in pairs)
    except UnclearError as error:
        return str(error)
    return _OTHER_ELEMENTS if bad else None


@relax.expr_functor.mutator
class _Writer(relax.PyExprMutator):
    """Makes the chosen calls in-place calls of kernels without a parameter for the result."""

    def __init__(self, mod: tvm.IRModule, chosen: dict[relax.Var, int]) -> None:
        super().__init__(mod)
        self.mod = mod
        self.chosen = chosen
        self.kernels: dict[tuple[str, int], tvm.ir.GlobalVar] = {}

    def write(self, ctx: CompileContext) -> tvm.IRModule:
        main_var = self.mod.get_global_var("main")
        self.builder_.update_func(main_var, self.visit_expr(self.mod["main"]))
        after = self.builder_.get()
        _rename_layers(after, ctx)
        return relax.transform.DeadCodeElimination()(after)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        number = self.chosen.get(binding.var)
        if number is None:
            super().visit_var_binding_(binding)
            return
        call: Any = binding.value
        operands = [self.visit_expr(operand) for operand in call.args[1].fields]
        kernel = self._kernel(call.args[0], number)
        value = relax.op.call_tir_inplace(kernel, relax.Tuple(operands), number, binding.var.ty)
        kind = relax.DataflowVar if isinstance(binding.var, relax.DataflowVar) else relax.Var
        var = kind(binding.var.name, binding.var.ty)
        self.set_var_remap(binding.var, var)
        self.builder_.emit_normalized(relax.VarBinding(var, self.builder_.normalize(value)))

    def _kernel(self, kernel: tvm.ir.GlobalVar, number: int) -> tvm.ir.GlobalVar:
        key = kernel.name_hint, number
        if key not in self.kernels:
            func = one_parameter_for_both(self.mod[kernel], number)
            self.kernels[key] = self.builder_.add_func(func, f"{kernel.name_hint}_inplace")
        return self.kernels[key]


def one_parameter_for_both(func: Any, number: int) -> tirx.PrimFunc:
    """The kernel with its result, its last parameter, in the place of parameter `number`.

    Kernels promise that no two parameters overlap, so it has to be a single one.
    """
    operand, result = func.params[number], func.params[-1]

    def renamed(var: ir.Var) -> Any:
        return result if var.same_as(operand) else var

    body = tvm_ffi.structural_map(func.body, [(ir.Var, renamed)])
    params = [renamed(param) for param in func.params[:-1]]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _rename_layers(mod: tvm.IRModule, ctx: CompileContext) -> None:
    """Tells the report which kernel computes each layer now."""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    calls = [
        b.value for b in bindings if is_op(b.value, "relax.call_tir", "relax.call_tir_inplace")
    ]
    ctx.report.layers[:] = [
        replace(layer, kernel=call.args[0].name_hint)
        for layer, call in zip(ctx.report.layers, calls, strict=True)
    ]


def _is_alike(operand: relax.Expr, result: relax.Expr) -> bool:
    shape = shape_of(result)
    return (
        shape is not None and shape == shape_of(operand) and dtype_of(result) == dtype_of(operand)
    )


def _size_bytes(var: relax.Expr) -> int:
    """The size of a tensor of static shape; 0 for anything else."""
    shape = shape_of(var)
    if shape is None:
        return 0
    return math.prod(shape) * ((tvm.DataType(dtype_of(var)).bits + 7) // 8)
