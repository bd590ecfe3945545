"""Reads from Relax what is a piece of what, and writes the placement back as views of buffers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi
from tvm import relax, sym, tirx, topi
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from tvmopt import CompileContext
from tvmopt.rewriting import dtype_of, shape_of
from tvmopt_plugins.share_buffers.placement import Piece, Placement, Value, place

if TYPE_CHECKING:
    from tvmopt_plugins.share_buffers import ShareBuffers

ALIGNMENT = 64  # bytes: kernels load and store vectors as aligned ones

JOINED_AXIS = "tvmopt.joined_axis"  # of the kernel of a concatenation


def share_buffers(mod: tvm.IRModule, source: "ShareBuffers", ctx: CompileContext) -> tvm.IRModule:
    """Places the parts of concatenations, and makes lone contiguous slices views."""
    reader = _Reader(mod)
    made = place(reader.values, ALIGNMENT)
    for index, why in made.refused.items():
        ctx.missed(source, reader.binding(index).var.name, f"is copied together: {why}")
    slices = [
        index
        for index, value in enumerate(reader.values)
        if value.piece_of is not None and reader.is_kernel(index)
    ]
    if not slices and not made.owners:
        return mod
    copied = sum(len(parts) for parts in made.copies.values())
    ctx.found(
        source,
        "",
        f"{len(made.owners) + len(made.aliases)} concatenations are written in place ({copied} "
        f"parts copied), {len(slices)} slices are views",
    )
    return _Writer(mod, reader, made).write()


class _Reader:
    """The values of `main`: parameters and constants are none of ours, each binding makes one."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        main: Any = mod["main"]
        self.number: dict[relax.Expr, int] = {}
        self.values: list[Value] = []
        self.bindings: list[Any] = [b for block in main.body.blocks for b in block.bindings]
        self._binding_of: dict[int, Any] = {}
        for param in main.params:
            self._add(param, Value(_size_bytes(param)))
        escaping = self._escaping(main)
        for binding in self.bindings:
            value = self._value(binding, escaping)
            self._binding_of[len(self.values)] = binding
            self._add(binding.var, value)

    def binding(self, index: int) -> Any:
        """The binding that computes a value; its variable is called like its ONNX nodes."""
        return self._binding_of[index]

    def is_kernel(self, index: int) -> bool:
        """Whether a kernel of its own computes a value."""
        return index in self._binding_of and self._kernel(self._binding_of[index]) is not None

    def _add(self, expr: relax.Expr, value: Value) -> None:
        self.number[expr] = len(self.values)
        self.values.append(value)

    def _escaping(self, main: Any) -> set[relax.Var]:
        """What is needed outside the function, itself or as a reshaped view."""
        escaping = set(relax.analysis.free_vars(main.body.body))
        for block in main.body.blocks:
            if isinstance(block, relax.DataflowBlock):
                outputs = (
                    b.var for b in block.bindings if not isinstance(b.var, relax.DataflowVar)
                )
                escaping.update(outputs)
        for binding in reversed(self.bindings):
            if binding.var in escaping and self._kernel(binding) is None:
                escaping.update(relax.analysis.free_vars(binding.value))
        return escaping

    def _kernel(self, binding: Any) -> tirx.PrimFunc | None:
        """The kernel with one static result that the binding calls, if that is what it does."""
        call = binding.value
        if not isinstance(call, relax.Call) or call.op != tvm.ir.Op.get("relax.call_tir"):
            return None
        func = self.mod[call.args[0]]
        alone = len(call.args) == 2 and shape_of(binding.var) is not None
        return func if alone and isinstance(func, tirx.PrimFunc) else None

    def _value(self, binding: Any, escaping: set[relax.Var]) -> Value:
        size_bytes = _size_bytes(binding.var)
        call = binding.value
        if _is_reshape(call) and call.args[0] in self.number:
            return Value(size_bytes, piece_of=(self.number[call.args[0]], 0))
        func = self._kernel(binding)
        if func is None or not size_bytes:
            return Value(size_bytes)
        is_fresh = binding.var not in escaping
        operands = list(call.args[1].fields)
        for operand in operands:
            if isinstance(operand, tvm.ir.GenericConst) and operand not in self.number:
                self._add(operand, Value(_size_bytes(operand)))
        known = all(operand in self.number for operand in operands)
        if is_fresh and known and len(operands) == 1:
            begin = begin_of_slice(func)
            if begin is not None:
                offset = begin * _element_bytes(binding.var)
                if offset % ALIGNMENT == 0:
                    return Value(size_bytes, piece_of=(self.number[operands[0]], offset))
        axis = (func.attrs or {}).get(JOINED_AXIS)
        shape = shape_of(binding.var)
        if axis is None or shape is None or not known or math.prod(shape[: int(axis)]) != 1:
            return Value(size_bytes, is_fresh)
        return Value(size_bytes, is_fresh, parts=tuple(self.number[part] for part in operands))


def begin_of_slice(func: tirx.PrimFunc) -> int | None:
    """Where the contiguous elements begin that the kernel copies; None for any other kernel."""
    stores: list[Any] = []
    blocks: list[Any] = []
    structural_walk(func.body, [(tirx.BufferStore, stores.append), (SBlock, blocks.append)])
    inner = [block for block in blocks if block.iter_vars]
    if len(stores) != 1 or len(inner) != 1 or len(func.params) != 2:
        return None
    store, load = stores[0], stores[0].value
    if not isinstance(load, tvm.ir.TensorLoad):
        return None
    if not load.source.same_as(func.params[0]) or not store.buffer.same_as(func.params[1]):
        return None
    analyzer = sym.Analyzer()
    for axis in inner[0].iter_vars:
        analyzer.bind(axis.var, axis.dom)
    before = _flat(load.indices, load.source.shape)
    after = _flat(store.indices, store.buffer.shape)
    begin = analyzer.simplify(before - after)
    return int(begin) if isinstance(begin, tirx.IntImm) else None


def _flat(indices: Any, shape: Any) -> Any:
    flat: Any = tirx.const(0, "int64")
    for index, extent in zip(indices, shape, strict=True):
        flat = flat * extent + index
    return flat


@relax.expr_functor.mutator
class _Writer(relax.PyExprMutator):
    """Puts a buffer in front of the first kernel that writes to it, and views where it is read."""

    def __init__(self, mod: tvm.IRModule, reader: _Reader, made: Placement) -> None:
        super().__init__(mod)
        self.mod = mod
        self.reader = reader
        self.made = made
        self.buffers: dict[int, relax.Var] = {}

    def write(self) -> tvm.IRModule:
        main_var = self.mod.get_global_var("main")
        self.builder_.update_func(main_var, self.visit_expr(self.mod["main"]))
        return _without_unused_kernels(self.builder_.get())

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        index = self.reader.number.get(binding.var)
        if index is None:  # in a branch
            super().visit_var_binding_(binding)
            return
        value = self.reader.values[index]
        if value.piece_of is not None and self.reader.is_kernel(index):
            source = self.visit_expr(binding.value.args[1].fields[0])
            self._bind(binding, self._view(source, value.piece_of[1], binding.var))
        elif index in self.made.aliases:
            self._join(binding, self.made.aliases[index], [])
        elif index in self.made.copies:
            whole = self.made.home.get(index, Piece(index, 0, value.size_bytes))
            self._join(binding, whole, self.made.copies[index])
        elif index in self.made.home:
            call = binding.value
            operands = [self.visit_expr(operand) for operand in call.args[1].fields]
            written = self._write(call.args[0], operands, self.made.home[index], binding.var)
            self._bind(binding, written)
        else:
            super().visit_var_binding_(binding)

    def _bind(self, binding: relax.VarBinding, value: relax.Expr) -> None:
        kind = relax.DataflowVar if isinstance(binding.var, relax.DataflowVar) else relax.Var
        var = kind(binding.var.name, binding.var.ty)
        self.set_var_remap(binding.var, var)
        self.builder_.emit_normalized(relax.VarBinding(var, self.builder_.normalize(value)))

    def _join(
        self, binding: relax.VarBinding, whole: Piece, copies: Sequence[tuple[int, int]]
    ) -> None:
        """Binds a concatenation to the memory that its parts were written to.

        It goes through a tuple with the parts: passes that drop what nobody reads see who does.
        """
        parts = list(binding.value.args[1].fields)
        written = [self.visit_expr(part) for part in parts]
        for number, at in copies:
            part = next(one for one in parts if self.reader.number[one] == number)
            piece = Piece(whole.value, whole.offset + at, _size_bytes(part))
            source = self.visit_expr(part)
            kernel = self.builder_.call_te(topi.identity, source, primfunc_name_hint="copy").args[0]
            copied = self._write(kernel, [source], piece, part)
            written.append(self.builder_.emit(copied, binding.var.name))
        fields = [*written, self._piece(whole, binding.var)]
        joined = self.builder_.emit(relax.Tuple(fields), "joined")
        self._bind(binding, relax.TupleGetItem(joined, len(written)))

    def _write(
        self, kernel: tvm.ir.GlobalVar, operands: list[relax.Expr], home: Piece, like: relax.Expr
    ) -> relax.Call:
        """The call of a kernel with the place for its result as its last operand."""
        operands = [*operands, self._piece(home, like)]
        return relax.op.call_tir_inplace(kernel, relax.Tuple(operands), len(operands) - 1, like.ty)

    def _piece(self, piece: Piece, like: relax.Expr) -> relax.Expr:
        """A piece of a buffer with the type of `like`."""
        if piece.value not in self.buffers:
            ty = self.reader.binding(piece.value).var.ty
            alloc = relax.op.builtin.alloc_tensor(ty.shape, str(ty.dtype), 0)
            self.buffers[piece.value] = self.builder_.emit(alloc, "buffer")
        buffer = self.buffers[piece.value]
        if piece.offset == 0 and tvm_ffi.structural_equal(buffer.ty, like.ty):
            return buffer
        return self.builder_.emit(self._view(buffer, piece.offset, like), "place")

    def _view(self, source: relax.Expr, offset: int, like: relax.Expr) -> relax.Expr:
        """Contiguous elements from byte `offset` on; kernels take tensors that begin at 0 only."""
        where = tirx.const(offset, "int64")
        view = relax.op.memory.view(source, like.ty.shape, None, where)
        return relax.op.memory.ensure_zero_offset(view) if offset else view


def _without_unused_kernels(mod: tvm.IRModule) -> tvm.IRModule:
    """Drops kernels that nobody calls; dead bindings are not looked for."""
    called: set[str] = set()

    def note(var: tvm.ir.GlobalVar) -> None:
        called.add(var.name_hint)

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            structural_walk(func, [(tvm.ir.GlobalVar, note)])
    kept = {
        var: func
        for var, func in mod.functions_items()
        if not isinstance(func, tirx.PrimFunc) or var.name_hint in called
    }
    return tvm.IRModule(kept, attrs=mod.attrs)


def _is_reshape(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.reshape")


def _element_bytes(expr: relax.Expr) -> int:
    return (tvm.DataType(dtype_of(expr)).bits + 7) // 8


def _size_bytes(expr: relax.Expr) -> int:
    """The size of a tensor of static shape; 0 for anything else."""
    shape = shape_of(expr)
    return math.prod(shape) * _element_bytes(expr) if shape is not None else 0
