"""Reads Relax into the graph that `grouping` works on, and writes its groups back as kernels."""

import math
from typing import TYPE_CHECKING

import tvm
from tvm import relax, tirx
from tvm_ffi import structural_walk

from tvmopt import CompileContext
from tvmopt.rewriting import join_names
from tvmopt_plugins.fuse.grouping import Kind, Node, group, order

if TYPE_CHECKING:
    from tvmopt_plugins.fuse import Fuse

# relax.OpPatternKind of TVM
_INJECTIVE, _REDUCTION, _OUT_FUSABLE = 2, 3, 4

OP_SEPARATOR = "__"  # between the operators in a kernel's name
MOST_CHOICES = 4  # operands of a concatenation that is computed together with them
_MAX_NAME = 120  # characters of a kernel's name; TVM makes it unique

_ANNOUNCED = {
    "anchor": Kind.ANCHOR,
    "anchor-moved": Kind.ANCHOR_MOVED,
    "row": Kind.ROW,
    "opaque": Kind.OPAQUE,
    "elementwise": Kind.ELEMENTWISE,
}


def fuse(mod: tvm.IRModule, options: "Fuse", ctx: CompileContext) -> tvm.IRModule:
    """Groups the calls of `main`, makes each group one PrimFunc, and lone reshapes views."""
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    nodes = _read(mod, bindings)
    groups = group(nodes, options.max_ops)
    fused = sum(len(members) > 1 for members in groups)
    ctx.found(
        options, "", f"{len(nodes)} operators became {len(groups)} kernels, {fused} of them fused"
    )
    mod = _write(mod, bindings, [order(nodes, members) for members in groups])
    return tvm.transform.Sequential(
        [
            relax.transform.FuseTIR(),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.DeadCodeElimination(),
        ]
    )(mod)


def _read(mod: tvm.IRModule, bindings: list[relax.Binding]) -> list[Node]:
    position = {binding.var: index for index, binding in enumerate(bindings)}
    main = mod["main"]
    leaving = set(relax.analysis.free_vars(main.body.body))
    for block in main.body.blocks:
        if isinstance(block, relax.DataflowBlock):
            outputs = (b.var for b in block.bindings if not isinstance(b.var, relax.DataflowVar))
            leaving.update(outputs)
    nodes: list[Node] = []
    for binding in bindings:
        used = relax.analysis.free_vars(binding.value)
        inputs = [position[var] for var in used if var in position]
        escapes = binding.var in leaving
        nodes.append(
            Node(_kind(mod, binding), inputs, escapes, _size(binding.var), _item_bytes(binding.var))
        )
    return nodes


def _size(var: relax.Var) -> int:
    """The number of a tensor's elements; 0 where it is not static, or no tensor."""
    values = getattr(getattr(var.ty, "shape", None), "values", [0])
    return math.prod(int(getattr(dim, "value", 0)) for dim in values)


def _item_bytes(var: relax.Var) -> int:
    dtype = str(getattr(var.ty, "dtype", "") or "float32")
    return (tvm.DataType(dtype).bits + 7) // 8


def _kind(mod: tvm.IRModule, binding: relax.Binding) -> Kind:
    func = _callee(mod, binding)
    if func is None:
        return Kind.OPAQUE
    announced = func.attrs.get("tvmopt.fusion") if func.attrs else None
    if announced is not None:
        return _ANNOUNCED[str(announced)]
    pattern = int(func.attrs.get("op_pattern", 8))
    if pattern > _INJECTIVE:
        return {_REDUCTION: Kind.ROW, _OUT_FUSABLE: Kind.ANCHOR}.get(pattern, Kind.OPAQUE)
    if pattern == _INJECTIVE and len(binding.value.args[1].fields) != 1:
        return Kind.CHOICE if _chooses(binding.value, func) else Kind.OPAQUE
    if not _copies(func):
        return Kind.ELEMENTWISE
    return Kind.RESHAPE if _is_reshape(binding.value, func) else Kind.MOVE


def _copies(func: tirx.PrimFunc) -> bool:
    """Whether each element of the result is one element of an operand, unchanged."""
    stores: list[tirx.BufferStore] = []
    structural_walk(func.body, [(tirx.BufferStore, stores.append)])
    return all(isinstance(store.value, tvm.ir.TensorLoad) for store in stores)


def _chooses(call: relax.Call, func: tirx.PrimFunc) -> bool:
    """Whether each element of the result is one element of one operand, by its position alone.

    So in a concatenation; a gather reads an operand to find out. Only where all operands are
    computed and few: each brings a copy of the loop body.
    """
    operands = call.args[1].fields
    if len(operands) > MOST_CHOICES or not all(isinstance(one, relax.Var) for one in operands):
        return False
    stores: list[tirx.BufferStore] = []
    structural_walk(func.body, [(tirx.BufferStore, stores.append)])
    return all(_is_choice(store.value) for store in stores)


def _is_choice(value: tvm.ir.Expr) -> bool:
    if isinstance(value, tvm.ir.TensorLoad):
        loads: list[tvm.ir.TensorLoad] = []
        structural_walk(value.indices, [(tvm.ir.TensorLoad, loads.append)])
        return not loads
    if not isinstance(value, tvm.ir.Call) or value.op.name != "prim.if_then_else":
        return False
    return all(_is_choice(case) for case in value.args[1:])


def _is_reshape(call: relax.Call, func: tirx.PrimFunc) -> bool:
    """Whether the call keeps all elements in their order.

    TVM's analysis alone takes a slice from the front for a reshape: it compares indices only.
    """
    before, after = call.args[1].fields[0].ty, call.ty_args[0]
    sizes = [math.prod(int(dim) for dim in ty.shape.values) for ty in (before, after)]
    return sizes[0] == sizes[1] and relax.analysis.has_reshape_pattern(func)


def _callee(mod: tvm.IRModule, binding: relax.Binding) -> tirx.PrimFunc | None:
    """The PrimFunc that the binding calls, if that is what it does."""
    value = binding.value
    if not isinstance(value, relax.Call) or value.op != tvm.ir.Op.get("relax.call_tir"):
        return None
    func = mod[value.args[0]]
    static = isinstance(value.ty_args[0], relax.TensorType) and len(value.args) == 2
    return func if static and isinstance(func, tirx.PrimFunc) else None


def _write(
    mod: tvm.IRModule, bindings: list[relax.Binding], groups: list[list[int]]
) -> tvm.IRModule:
    """Rebuilds `main` with one call for each group; equal groups share one function."""
    main_var = mod.get_global_var("main")
    writer = _Writer(mod)
    for members in groups:
        if len(members) > 1:
            inner = [bindings[m] for m in members]
            writer.dropped.update(b.var for b in inner[:-1])
            writer.groups[inner[-1].var] = inner
    writer.builder_.update_func(main_var, writer.visit_expr(mod["main"]))
    return writer.builder_.get()


@relax.expr_functor.mutator
class _Writer(relax.PyExprMutator):
    """Replaces the last binding of each group by the group's call and drops the others."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.dropped: set[relax.Var] = set()
        self.groups: dict[relax.Var, list[relax.Binding]] = {}
        self.kernels: dict[object, tvm.ir.GlobalVar] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var in self.dropped:
            return
        if binding.var not in self.groups:
            super().visit_var_binding_(binding)
            return
        inner = self.groups[binding.var]
        kernel, operands = self._kernel(inner)
        call = self.builder_.normalize(relax.Call(kernel, [self.visit_expr(o) for o in operands]))
        name = join_names(*(b.var.name for b in inner))
        kind = relax.DataflowVar if isinstance(binding.var, relax.DataflowVar) else relax.Var
        var = kind(name, binding.var.ty)
        self.set_var_remap(binding.var, var)
        self.builder_.emit_normalized(relax.VarBinding(var, call))

    def _kernel(self, inner: list[relax.Binding]) -> tuple[tvm.ir.GlobalVar, list[relax.Expr]]:
        """The function that computes a group, and the expressions that it is called with."""
        number: dict[relax.Expr, int] = {}  # of each value: operands are negative
        operands: list[relax.Expr] = []
        key: list[object] = []
        for index, binding in enumerate(inner):
            call = binding.value
            reads: list[int] = []
            for operand in call.args[1].fields:
                if operand not in number:
                    operands.append(operand)
                    number[operand] = -len(operands)
                reads.append(number[operand])
            number[binding.var] = index
            key.append((call.args[0].name_hint, tuple(reads)))
        signature = tuple(key)
        if signature not in self.kernels:
            self.kernels[signature] = self._build(inner, operands)
        return self.kernels[signature], operands

    def _build(self, inner: list[relax.Binding], operands: list[relax.Expr]) -> tvm.ir.GlobalVar:
        params = [relax.Var(f"p{index}", operand.ty) for index, operand in enumerate(operands)]
        renamed = dict(zip(operands, params, strict=True))
        name = OP_SEPARATOR.join(b.value.args[0].name_hint for b in inner)
        bindings: list[relax.Binding] = []
        for binding in inner:
            call = binding.value
            fields = [renamed.get(operand, operand) for operand in call.args[1].fields]
            arguments = [call.args[0], relax.Tuple(fields)]
            value = relax.Call(call.op, arguments, call.attrs, call.ty_args)
            kind = relax.Var if binding is inner[-1] else relax.DataflowVar
            renamed[binding.var] = kind(binding.var.name, binding.var.ty)
            bindings.append(relax.VarBinding(renamed[binding.var], value))
        result = renamed[inner[-1].var]
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
        func = relax.Function(params, body, result.ty).with_attr("Primitive", 1)
        return self.builder_.add_func(func, name[:_MAX_NAME])
