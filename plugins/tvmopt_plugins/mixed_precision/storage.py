"""What kernels hand to each other is stored in 16 bits: written rounded, read widened.

Works on fused kernels, whatever they compute. A tensor is narrowed where everything that touches it
can read or write it so; a reshape shares the type of what it is a view of. The conversions are
blocks of the kernels: the one that widens is inlined into whatever reads it, the one that rounds is
one more element-wise operator at the kernel's end.

A float16 ends at 65504, and nothing bounds most activations: what is larger, but finite, is stored
as 65504 of its sign, so that no infinity or NaN comes of it. Verification measures what that costs.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, te, tirx

from tvmopt import CompileContext
from tvmopt.rewriting import dtype_of, is_op, shape_of

if TYPE_CHECKING:
    from tvmopt_plugins.mixed_precision import NarrowStorage

_WIDEN, _ROUND = "widen", "round"

_LARGEST = 65504.0
"""The largest float16."""

_ON_LIMIT = {
    "bfloat16": "",
    "float16": f"; what is finite and beyond +-{_LARGEST:.0f} is stored as that",
}


def narrow_storage(mod: tvm.IRModule, source: "NarrowStorage", ctx: CompileContext) -> tvm.IRModule:
    """Narrows the tensors between the kernels of `main`."""
    main: Any = mod["main"]
    bindings: list[Any] = [b for block in main.body.blocks for b in block.bindings]
    chosen = _choose(mod, main, bindings, source.min_bytes)
    if not chosen:
        return mod
    before = sum(_size(var) for var in chosen)
    ctx.found(
        source,
        "",
        f"{len(chosen)} tensors between kernels are stored in {source.dtype}: "
        f"{before / 2e6:.1f} MB instead of {before / 1e6:.1f} MB{_ON_LIMIT[source.dtype]}",
    )
    ctx.report.precision = source.dtype
    writer = _Writer(mod, chosen, source.dtype)
    after = writer.rewrite()
    after = relax.transform.FuseTIR()(after)
    after = relax.transform.DeadCodeElimination()(after)
    return _inline_widening(after, source, ctx)


def _choose(mod: tvm.IRModule, main: Any, bindings: list[Any], min_bytes: int) -> set[relax.Var]:
    """The float32 variables that can be narrowed."""
    family: dict[relax.Var, relax.Var] = {}  # a view belongs to what it is a view of
    refused: set[relax.Var] = set(relax.analysis.free_vars(main.body.body))
    members: defaultdict[relax.Var, list[relax.Var]] = defaultdict(list)
    takes: dict[tvm.ir.GlobalVar, bool] = {}
    for binding in bindings:
        var, value = binding.var, binding.value
        family[var] = var
        call = _Call.of(value)
        if call is not None:
            if call.kernel not in takes:
                takes[call.kernel] = _is_regular(mod[call.kernel])
            if not takes[call.kernel]:
                refused.update([var, *relax.analysis.free_vars(value)])
        elif is_op(value, "relax.reshape") and isinstance(value.args[0], relax.Var):
            family[var] = family.get(value.args[0], value.args[0])
        elif isinstance(value, relax.Var):
            family[var] = family.get(value, value)
        else:
            refused.update([var, *relax.analysis.free_vars(value)])
        if not isinstance(var, relax.DataflowVar):
            refused.add(var)
        members[family[var]].append(var)
    bad = {family.get(var, var) for var in refused}
    return {
        var
        for root, group in members.items()
        if root not in bad and root in family and _size(root) >= min_bytes
        for var in group
        if dtype_of(var) == "float32"
    }


@dataclass(frozen=True)
class _Call:
    """A call of one kernel with one result."""

    kernel: tvm.ir.GlobalVar
    operands: list[relax.Expr]

    @classmethod
    def of(cls, value: relax.Expr) -> "_Call | None":
        if not is_op(value, "relax.call_tir") or len(value.args) != 2:
            return None
        if not isinstance(value.ty_args[0], relax.TensorType):
            return None
        return cls(value.args[0], list(value.args[1].fields))


def _is_regular(func: Any) -> bool:
    """Whether the kernel consists of blocks over data-parallel and reduced axes."""
    blocks: list[Any] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    kinds = (tirx.IterVar.DataPar, tirx.IterVar.CommReduce)
    leaves = [block for block in blocks if block.name_hint != "root"]
    return bool(leaves) and all(
        block.iter_vars and all(it.iter_type in kinds for it in block.iter_vars) for block in leaves
    )


def _size(var: relax.Expr) -> int:
    shape = shape_of(var)
    return 0 if shape is None else prod(shape) * 4


class _Writer:
    """Rebuilds `main` with kernels that read and write narrow tensors."""

    def __init__(self, mod: tvm.IRModule, chosen: set[relax.Var], dtype: str) -> None:
        self.mod = mod
        self.chosen = chosen
        self.dtype = dtype
        self.kernels: dict[object, tvm.ir.GlobalVar] = {}
        self.env: dict[relax.Expr, relax.Expr] = {}
        self.bb = relax.BlockBuilder(
            tvm.IRModule({gv: func for gv, func in mod.functions_items() if gv.name_hint != "main"})
        )

    def rewrite(self) -> tvm.IRModule:
        main: Any = self.mod["main"]
        attrs = dict(main.attrs.items()) if main.attrs else {}
        with self.bb.function("main", list(main.params), attrs, main.is_pure):
            for block in main.body.blocks:
                if isinstance(block, relax.DataflowBlock):
                    with self.bb.dataflow():
                        self._block(block)
                else:
                    self._block(block)
            self.bb.emit_func_output(self._renamed(main.body.body))
        return self.bb.finalize()

    def _block(self, block: Any) -> None:
        for binding in block.bindings:
            value = self._value(binding)
            if isinstance(value, relax.Var) and isinstance(binding.var, relax.DataflowVar):
                self.env[binding.var] = value
                continue
            value = self.bb.normalize(value)
            var = type(binding.var)(binding.var.name, value.ty)
            self.env[binding.var] = var
            self.bb.emit_normalized(relax.VarBinding(var, value))

    def _value(self, binding: Any) -> relax.Expr:
        call = _Call.of(binding.value)
        if call is None:
            return self._renamed(binding.value)
        narrow = tuple(operand in self.chosen for operand in call.operands)
        operands = [self.env.get(operand, operand) for operand in call.operands]
        rounds = binding.var in self.chosen
        if not rounds and not any(narrow):
            return self._renamed(binding.value)
        if narrow == (True,) and _is_rounding(self.mod[call.kernel], self.dtype):
            return operands[0]  # it is rounded already
        key = (call.kernel, narrow, rounds)
        if key not in self.kernels:
            self.kernels[key] = self._kernel(call, binding.value.ty_args[0], narrow, rounds=rounds)
        return relax.Call(self.kernels[key], operands)

    def _renamed(self, value: relax.Expr) -> relax.Expr:
        if is_op(value, "relax.reshape"):
            return relax.op.reshape(self.env.get(value.args[0], value.args[0]), value.args[1])
        return _rename(value, self.env)

    def _kernel(
        self, call: _Call, result: relax.TensorType, narrow: tuple[bool, ...], *, rounds: bool
    ) -> tvm.ir.GlobalVar:
        """A function of the kernel between conversions, for `FuseTIR`."""
        params = [
            relax.Var(
                f"p{index}",
                relax.TensorType(operand.ty.shape, self.dtype) if is_narrow else operand.ty,
            )
            for index, (operand, is_narrow) in enumerate(zip(call.operands, narrow, strict=True))
        ]
        bindings: list[relax.Binding] = []

        def bind(value: relax.Expr, ty: Any, *, last: bool = False) -> relax.Var:
            var = (relax.Var if last else relax.DataflowVar)(f"v{len(bindings)}", ty)
            bindings.append(relax.VarBinding(var, value))
            return var

        operands: list[relax.Expr] = []
        for operand, param, is_narrow in zip(call.operands, params, narrow, strict=True):
            if is_narrow:
                convert = self._conversion(operand.ty, "float32", _WIDEN)
                operands.append(bind(relax.call_tir(convert, [param], operand.ty), operand.ty))
            else:
                operands.append(param)
        value = bind(relax.call_tir(call.kernel, operands, result), result, last=not rounds)
        if rounds:
            ty = relax.TensorType(result.shape, self.dtype)
            convert = self._conversion(result, self.dtype, _ROUND)
            value = bind(relax.call_tir(convert, [value], ty), ty, last=True)
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], value)
        func = relax.Function(params, body, value.ty).with_attr("Primitive", 1)
        return self.bb.add_func(func, call.kernel.name_hint)

    def _conversion(self, ty: relax.TensorType, dtype: str, name: str) -> tvm.ir.GlobalVar:
        shape = list(ty.shape.values)  # int64, as the kernels' own
        key = (tuple(int(dim) for dim in shape), name)
        if key not in self.kernels:
            given = self.dtype if name == _WIDEN else "float32"
            data = te.placeholder(shape, given, name="data")
            saturates = dtype == "float16"

            def convert(*index: Any) -> Any:
                value = data(*index)
                return (_limited(value) if saturates else value).astype(dtype)

            cast = te.compute(shape, convert, name=name)
            func = te.create_prim_func([data, cast]).without_attr("global_symbol")
            self.kernels[key] = self.bb.add_func(func, name)
        return self.kernels[key]


def _limited(x: Any) -> Any:
    """A finite float32 within float16's range; infinities and NaN stay what they are."""
    largest, infinite = tirx.const(_LARGEST, "float32"), tirx.const(math.inf, "float32")
    above, below = tirx.all(x > largest, x < infinite), tirx.all(x < -largest, x > -infinite)
    return tirx.Select(above, largest, tirx.Select(below, -largest, x))


def _rename(value: relax.Expr, env: dict[relax.Expr, relax.Expr]) -> relax.Expr:
    used = {var: env[var] for var in relax.analysis.free_vars(value) if var in env}
    return _substitute(value, used)


def _substitute(value: relax.Expr, env: dict[relax.Expr, relax.Expr]) -> relax.Expr:
    if isinstance(value, relax.Var):
        return env.get(value, value)
    if not env:
        return value
    return _Renamer(env).visit_expr(value)


@relax.expr_functor.mutator
class _Renamer(relax.PyExprMutator):
    """Renames free variables of a value."""

    def __init__(self, env: dict[relax.Expr, relax.Expr]) -> None:
        super().__init__()
        self.env = env

    def visit_var_(self, op: relax.Var) -> relax.Expr:
        return self.env.get(op, op)

    def visit_dataflow_var_(self, op: relax.DataflowVar) -> relax.Expr:
        return self.env.get(op, op)


def _is_rounding(func: Any, dtype: str) -> bool:
    """Whether a kernel only casts float32 to `dtype`, element by element in place."""
    stores: list[Any] = []
    tvm_ffi.structural_walk(func.body, [(tirx.BufferStore, stores.append)])
    if len(stores) != 1 or not isinstance(stores[0].value, tirx.Cast):
        return False
    cast = stores[0].value
    return (
        str(cast.ty) == dtype
        and isinstance(cast.value, tvm.ir.TensorLoad)
        and str(cast.value.ty) == "float32"
        and tvm_ffi.structural_equal(cast.value.indices, stores[0].indices)
        and list(map(int, cast.value.source.shape)) == list(map(int, stores[0].buffer.shape))
    )


def _inline_widening(
    mod: tvm.IRModule, source: "NarrowStorage", ctx: CompileContext
) -> tvm.IRModule:
    after = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for var, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        sch = s_tir.Schedule(func)
        names = [n for n in _block_names(sch) if n.split("_")[0] == _WIDEN]
        for name in names:
            try:
                sch.compute_inline(sch.get_sblock(name))
            except s_tir.ScheduleError:
                ctx.missed(source, "", f"{var.name_hint} widens its operand in a pass of its own")
        if names:
            made = sch.mod["main"]
            for key, value in (func.attrs or {}).items():
                made = made.with_attr(key, value)
            after.update_func(var, made)
    return after


def _block_names(sch: s_tir.Schedule) -> list[str]:
    try:
        root = sch.get_sblock("root")
    except s_tir.ScheduleError:
        return []
    return [str(sch.get(child).name_hint) for child in sch.get_child_blocks(root)]
