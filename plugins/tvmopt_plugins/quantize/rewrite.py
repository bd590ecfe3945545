"""Rebuilding `main` with the variables that it has: calibration looks tensors up by them."""

from collections.abc import Callable
from typing import Any, ClassVar

import tvm
from tvm import relax


class Rewriter:
    """Visits the bindings in order; subclasses bind what they want to.

    Other than `tvmopt.rewriting.rebuild` it keeps the very variables of what it does not touch.

    Attributes:
        keeps_unread: whether what nobody reads stays.
    """

    keeps_unread: ClassVar[bool] = False

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.bb = relax.BlockBuilder(mod)
        self.kind: type[relax.Var] = relax.Var
        self.bindings: list[relax.VarBinding] = []

    def begin(self, params: list[relax.Var]) -> None:
        """Is called in the first block, before its bindings."""

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        """Binds `var`, or leaves it out, and whatever else there is to bind."""
        self.bind(var, value)

    def result(self, value: relax.Expr) -> relax.Expr:
        """What the function returns instead."""
        return value

    def bind(self, var: relax.Var, value: relax.Expr) -> None:
        """Binds a variable of the function."""
        self.bindings.append(relax.VarBinding(var, value))

    def emit(self, value: relax.Expr, name: str) -> relax.Var:
        """Binds a new variable."""
        value = self.bb.normalize(value)
        var = self.kind(name, value.ty)
        self.bind(var, value)
        return var

    def run(self) -> tvm.IRModule:
        """The rewritten module, by default without what nobody reads any more."""
        func: Any = self.mod["main"]
        blocks: list[relax.BindingBlock] = []
        for index, block in enumerate(func.body.blocks):
            self.bindings = []
            is_dataflow = isinstance(block, relax.DataflowBlock)
            self.kind = relax.DataflowVar if is_dataflow else relax.Var
            if not index:
                self.begin(list(func.params))
            for binding in block.bindings:
                self.visit(binding.var, binding.value)
            blocks.append(type(block)(self.bindings))
        body = self.bb.normalize(relax.SeqExpr(blocks, self.result(func.body.body)))
        made = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
        after = tvm.IRModule(dict(self.mod.functions), attrs=self.mod.attrs)
        after.update_func(self.mod.get_global_var("main"), made)
        if self.keeps_unread:
            return after
        return relax.transform.DeadCodeElimination(["main"])(after)


def with_operands(value: relax.Expr, replace: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """A value with other operands of the same types."""
    match value:
        case relax.Call():
            args = [with_operands(arg, replace) for arg in value.args]
            if all(new is old for new, old in zip(args, value.args, strict=True)):
                return value
            return relax.Call(value.op, args, value.attrs, value.ty_args, value.span, value.ty)
        case relax.Tuple():
            fields = [with_operands(one, replace) for one in value.fields]
            if all(new is old for new, old in zip(fields, value.fields, strict=True)):
                return value
            return relax.Tuple(fields)
        case relax.Var():
            return replace(value)
        case _:
            return value
