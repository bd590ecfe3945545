"""A quantized model whose layers are switched between integers and floats while it runs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvmopt.rewriting import is_op

Key = tuple[str, str, int]

PRODUCTS = (
    "relax.nn.conv1d",
    "relax.nn.conv2d",
    "relax.nn.conv3d",
    "relax.nn.conv2d_transpose",
    "relax.matmul",
)
_HANDS_ON = (
    "relax.reshape",
    "relax.permute_dims",
    "relax.squeeze",
    "relax.expand_dims",
    "relax.flatten",
    "relax.strided_slice",
    "relax.split",
    "relax.nn.max_pool2d",
)
"""What hands values on as they are: the rounding of its operand is that of who reads them."""


@dataclass(frozen=True)
class Switch:
    """A layer that can be quantized alone.

    Attributes:
        nodes: names of the ONNX nodes that it computes.
        op: such as `conv2d`.
    """

    nodes: tuple[str, ...]
    op: str


@dataclass(frozen=True)
class SwitchedModule:
    """A module and its switches.

    `main` takes a bool after its inputs for each switch, in order: whether the layer is quantized.
    It returns a tuple: the model's outputs, and then the result of each layer.
    """

    module: tvm.IRModule
    switches: tuple[Switch, ...]
    results: tuple[relax.Var, ...]


def with_switches(simulated: tvm.IRModule, unquantized: tvm.IRModule) -> SwitchedModule:
    """Computes each layer twice, in floats and as its integers have it, and selects one result.

    A layer is what computes with quantized operands: a product with its bias, or what lies between
    products, such as an addition. It is quantized alone when its operands are, weights included.

    Args:
        simulated: with quantize and dequantize.
        unquantized: the same without. Bindings of the same variable belong together, and others by
            their names and operators.
    """
    return _Switcher(simulated, unquantized).run()


class _Switcher:
    def __init__(self, simulated: tvm.IRModule, unquantized: tvm.IRModule) -> None:
        self.mod = simulated
        self.bb = relax.BlockBuilder(simulated)
        self.floats: dict[relax.Var, relax.Expr] = {}
        """What a variable is bound to in floats."""
        self.ours: dict[relax.Var, relax.Var] = dict(
            zip(unquantized["main"].params, simulated["main"].params, strict=True)
        )
        """By variable of the float module, that of this one."""
        for var, (other, value) in _pairs(simulated, unquantized):
            self.floats[var], self.ours[other] = value, var
        self.switches: list[Switch] = []
        self.flags: list[relax.Var] = []
        self.flag_of: dict[relax.Var, relax.Var] = {}
        """The switch of a layer, by its result."""
        self.products: set[relax.Var] = set()
        """The results of switched products."""
        self.constants: dict[relax.Var, bool] = {}
        """Whether what quantization added is made of constants only, by variable."""
        self.results: list[relax.Var] = []
        self.bindings: list[relax.VarBinding] = []

    def run(self) -> SwitchedModule:
        func: Any = self.mod["main"]
        blocks: list[relax.BindingBlock] = []
        for block in func.body.blocks:
            self.bindings = []
            for binding in block.bindings:
                self._visit(binding.var, binding.value)
            blocks.append(type(block)(self.bindings))
        body = relax.Tuple([*_leaves(func.body.body), *self.results])
        body = self.bb.normalize(relax.SeqExpr(blocks, body))
        params = [*func.params, *self.flags]
        made = relax.Function(params, body, None, func.is_pure, func.attrs)
        made = made.with_attr("num_input", len(params))
        after = tvm.IRModule(dict(self.mod.functions), attrs=self.mod.attrs)
        after.update_func(self.mod.get_global_var("main"), made)
        return SwitchedModule(after, tuple(self.switches), tuple(self.results))

    def _visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var not in self.floats:
            operands = relax.analysis.free_vars(value)
            self.constants[var] = all(self.constants.get(one, False) for one in operands)
            self._bind(var, value)
            return
        added = [one for one in relax.analysis.free_vars(value) if one in self.constants]
        if not added:
            self._bind(var, value)
        elif all(self.constants[one] for one in added) and self._owner(value) is not None:
            self._bind(var, self._with_constants(var, value))
        elif is_op(self.floats[var], *_HANDS_ON):
            self._bind(var, self._in_floats(var))
        else:
            self._switch(var, value)

    def _switch(self, var: relax.Var, value: relax.Expr) -> None:
        flag = relax.Var(f"switch{len(self.flags)}", relax.TensorType((), "bool"))
        integers = self._emit(f"{var.name}_int", value)
        floats = self._emit(f"{var.name}_float", self._in_floats(var))
        # No DataflowVar: it is shown, behind the block.
        result = relax.Var(f"{var.name}_shown", var.ty)
        self._bind(result, relax.op.where(flag, integers, floats))
        self._bind(var, result)
        self.flags.append(flag)
        self.flag_of[var] = flag
        if is_op(self.floats[var], *PRODUCTS):
            self.products.add(var)
        op = _op_of(self.floats[var]).rpartition(".")[2]
        self.switches.append(Switch(tuple(var.name.split("|")), op))
        self.results.append(result)

    def _with_constants(self, var: relax.Var, value: Any) -> relax.Expr:
        """Adds the bias of a product that its integers have, or that of its floats."""
        floats, owner = self._in_floats(var), self._owner(value)
        assert owner is not None
        args: list[relax.Expr] = []
        for ours, theirs in zip(value.args, floats.args, strict=True):
            if ours in self.constants:
                chosen = relax.op.where(self.flag_of[owner], ours, theirs)
                args.append(self._emit(f"{var.name}_bias", chosen))
            else:
                args.append(ours)
        return relax.Call(value.op, args, value.attrs, value.ty_args, value.span)

    def _owner(self, value: Any) -> relax.Var | None:
        """The switched product whose bias it adds."""
        if not is_op(value, "relax.add"):
            return None
        return next((one for one in self.products if one in value.args), None)

    def _in_floats(self, var: relax.Var) -> Any:
        """What is bound to it in the float module, of this one's variables."""
        return _replaced(self.floats[var], self.ours)

    def _emit(self, name: str, value: relax.Expr) -> relax.Var:
        value = self.bb.normalize(value)
        made = relax.Var(name, value.ty)
        self.bindings.append(relax.VarBinding(made, value))
        return made

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        self.bindings.append(relax.VarBinding(var, self.bb.normalize(value)))


def _pairs(
    simulated: tvm.IRModule, unquantized: tvm.IRModule
) -> Iterator[tuple[relax.Var, tuple[relax.Var, Any]]]:
    """Variables, each with the variable and the value of the float module that belong to it."""
    same = {var: (var, value) for _, var, value in _keyed(unquantized)}
    named = {key: (var, value) for key, var, value in _keyed(unquantized)}
    taken = {var for _, var, _ in _keyed(simulated) if var in same}
    for key, var, _ in _keyed(simulated):
        if var in same:
            yield var, same[var]
        elif key in named and named[key][0] not in taken:
            yield var, named[key]


def _keyed(mod: tvm.IRModule) -> Iterator[tuple[Key, relax.Var, Any]]:
    """The bindings of `main` with what tells them apart: name, operator, and which of such."""
    seen = Counter[tuple[str, str]]()
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            kind = binding.var.name, _op_of(binding.value)
            seen[kind] += 1
            yield (*kind, seen[kind]), binding.var, binding.value


def _op_of(value: relax.Expr) -> str:
    """The name of its operator; of what is no call, its class."""
    return getattr(getattr(value, "op", None), "name", "") or type(value).__name__


def _replaced(value: Any, variables: Mapping[relax.Var, relax.Var]) -> Any:
    match value:
        case relax.Var():
            return variables.get(value, value)
        case relax.Tuple():
            return relax.Tuple([_replaced(one, variables) for one in value.fields])
        case relax.TupleGetItem():
            return relax.TupleGetItem(_replaced(value.tuple_value, variables), value.index)
        case relax.Call():
            args = [_replaced(one, variables) for one in value.args]
            return relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
        case _:
            return value


def _leaves(result: Any) -> list[relax.Expr]:
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(result.ty, relax.TupleType):
        return [relax.TupleGetItem(result, index) for index in range(len(result.ty.fields))]
    return [result]
