"""bfloat16 in vectorized kernels: conversions and products of pairs.

AVX512-BF16 has `vdpbf16ps` (two products and a sum per lane) and `vcvtneps2bf16`. TVM's LLVM code
generation has no type bfloat, which their intrinsics take; so kernels call functions on integers,
whose LLVM IR is imported with the kernel and inlined.
"""

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, tirx

from tvmopt.compiler.placeholders import (
    are_neighbours,
    features_of,
    is_call,
    lanes_of,
    like,
    operator,
    vector,
    with_functions,
)

DOT_PAIRS = "tvmopt.dot_pairs"
"""`(int32, int32) -> float32`: `a.low * b.low + a.high * b.high` of two pairs of bfloat16."""

PAIR = "tvmopt.pair"
"""`(bfloat16, bfloat16) -> int32`: two numbers as a pair, the first in the lower half."""

_ROUND = "tvmopt.round_to_bfloat16"
"""`float32 -> uint16`: the bits of the nearest bfloat16. Only between the two passes here."""

_STORED = "tvmopt.bfloat16_is_stored"
"""Attribute of kernels that compute nothing in bfloat16."""

FEATURE = "avx512bf16"

_DOT_LANES = {16: "512", 8: "256", 4: "128"}

_ARITHMETIC = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod),
    *(tirx.Max, tirx.Min, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE),
)
_MOVES = ("tirx.reinterpret", "prim.if_then_else")


def store_bfloat16(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Makes casts from and to bfloat16 integer operations where nothing is computed in bfloat16.

    TVM's own `BF16ComputeLegalize` makes bfloat16 buffers in the kernel float32 and loses NaN. It
    remains for kernels that compute in bfloat16.
    """
    found = _Uses()
    tvm_ffi.structural_walk(func.body, found.callbacks())
    if not found.any or found.computes:
        return func
    rewrites = [(tirx.Cast, _widen), (ir.Call, _on_integers), (tirx.BufferStore, _store)]
    return func.with_body(tvm_ffi.structural_map(func.body, rewrites)).with_attr(_STORED, 1)


def legalize_computations(mod: tvm.IRModule, _ctx: Any) -> tvm.IRModule:
    """TVM's `BF16ComputeLegalize` for the kernels that need it."""
    needing = {
        var: func
        for var, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc) and not (func.attrs and _STORED in func.attrs)
    }
    after = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    legal = tirx.transform.BF16ComputeLegalize()(tvm.IRModule(needing))
    for var in needing:
        after.update_func(var, legal[var.name_hint])
    return after


class _Uses:
    """What a kernel does with bfloat16."""

    def __init__(self) -> None:
        self.any = False
        self.computes = False

    def callbacks(self) -> list[Any]:
        def cast(node: Any) -> None:
            self.any |= _is_bfloat16(node.ty) or _is_bfloat16(node.value.ty)

        def load(node: Any) -> None:
            self.any |= _is_bfloat16(node.source.dtype)

        def operation(node: Any) -> None:
            self.computes |= _is_bfloat16(node.a.ty)

        def call(node: Any) -> None:
            name = node.op.name if isinstance(node.op, ir.Op) else ""
            self.computes |= _is_bfloat16(node.ty) and name not in _MOVES

        arithmetic = [(kind, operation) for kind in _ARITHMETIC]
        return [(tirx.Cast, cast), (ir.TensorLoad, load), (ir.Call, call), *arithmetic]


def _widen(node: Any) -> Any:
    if not _is_bfloat16(node.value.ty) or _is_bfloat16(node.ty):
        return node
    bits = _bits(node.value)
    return _from_bits(bits.astype(vector("uint32", lanes_of(bits))), 16).astype(str(node.ty))


def _on_integers(call: Any) -> Any:
    if is_call(call, PAIR):
        plain = [one if isinstance(one, ir.TensorLoad) else _bits(one) for one in call.args]
        return ir.Call(call.op, plain, ret_ty=str(call.ty))
    if not is_call(call, "tirx.reinterpret") or not _is_bfloat16(call.args[0].ty):
        return call
    return tirx.reinterpret(str(call.ty), _bits(call.args[0]))


def _store(store: Any) -> Any:
    if not _is_bfloat16(store.value.ty):
        return store
    value = tirx.reinterpret(str(store.value.ty), _bits(store.value))
    return tirx.BufferStore(store.buffer, value, store.indices)


def _bits(expr: Any) -> Any:
    """The bits of a bfloat16 expression, as uint16."""
    lanes = lanes_of(expr)
    kind = vector("uint16", lanes)
    match expr:
        case tirx.Cast():
            value = expr.value.astype(vector("float32", lanes))
            return ir.Call(operator(_ROUND), [value], ret_ty=kind)
        case tirx.FloatImm():
            return tirx.const(int(np.array(expr.value, "float32").view("uint32")) >> 16, "uint16")
        case tirx.Select():
            ways = _bits(expr.true_value), _bits(expr.false_value)
            return tirx.Select(expr.condition, *ways)
        case tirx.Broadcast():
            return tirx.Broadcast(_bits(expr.value), expr.lanes)
        case tirx.Let():
            return tirx.Let(expr.var, expr.value, _bits(expr.body))
        case ir.Call() if is_call(expr, "prim.if_then_else"):
            condition, *ways = expr.args
            return tirx.if_then_else(condition, *map(_bits, ways))
        case _:
            return tirx.reinterpret(kind, expr)


def dot_pairs(a: Any, b: Any) -> Any:
    """The sum of the products of two pairs of bfloat16, as float32."""
    return ir.Call(operator(DOT_PAIRS), [a, b], ret_ty="float32")


def lower_bfloat16(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Replaces `DOT_PAIRS` and roundings in a kernel with vectorized loops.

    Conversions to bfloat16 round to nearest, ties to even, and keep NaN. `vdpbf16ps` and
    `vcvtneps2bf16` take denormal numbers for zeros.
    """
    return _Lowering(_has_instructions(func)).apply(func)


def _has_instructions(func: Any) -> bool:
    return FEATURE in features_of(func)


class _Lowering:
    """Rewrites one kernel and collects the functions it needs."""

    def __init__(self, has_instructions: bool) -> None:  # noqa: FBT001
        self.has_instructions = has_instructions
        self.imports: dict[str, str] = {}

    def apply(self, func: Any) -> Any:
        body = tvm_ffi.structural_map(func.body, (tirx.Add, self._add))
        rewrites = [(ir.Call, self._call), (tirx.Broadcast, _broadcast)]
        body = tvm_ffi.structural_map(body, rewrites)
        if body.same_as(func.body):
            return func
        return func.with_body(with_functions(body, self.imports.values()))

    def _add(self, node: Any) -> Any:
        for total, product in ((node.a, node.b), (node.b, node.a)):
            if is_call(product, DOT_PAIRS):
                return self._dot(total, *product.args)
        return node

    def _call(self, call: Any) -> Any:
        if is_call(call, _ROUND):
            return self._rounded(call.args[0])
        if is_call(call, PAIR):
            return self._pair(*call.args)
        if is_call(call, DOT_PAIRS):
            return self._dot(like(0.0, "float32", lanes_of(call)), *call.args)
        return call

    def _pair(self, low: Any, high: Any) -> Any:
        if are_neighbours(low, high):
            # One load. Two that LLVM would join itself, it joins too late: with so many addresses
            # in a loop, accumulators were stored in each step, at a third of the speed.
            self.imports[_LOAD_PAIR] = _LOAD_FUNCTION
            return tirx.call_pure_extern("int32", _LOAD_PAIR, tirx.address_of(low))
        lanes = lanes_of(low)
        wide = vector("uint32", lanes)
        halves = [_bits(one) if _is_bfloat16(one.ty) else one for one in (low, high)]
        first, second = (half.astype(wide) for half in halves)
        bits = first | (second << like(16, "uint32", lanes))
        return tirx.reinterpret(vector("int32", lanes), bits)

    def _dot(self, total: Any, a: Any, b: Any) -> Any:
        lanes = lanes_of(total)
        if self.has_instructions and lanes in _DOT_LANES:
            name = f"tvmopt_dot_pairs_{lanes}"
            self.imports[name] = _dot_function(name, lanes)
            return tirx.call_pure_extern(vector("float32", lanes), name, total, a, b)
        for half in (_low, _high):
            total = tirx.op.fma(half(a), half(b), total)
        return total

    def _rounded(self, value: Any) -> Any:
        lanes = lanes_of(value)
        if self.has_instructions and lanes >= 4 and lanes % 4 == 0:
            name = f"tvmopt_round_to_bfloat16_{lanes}"
            self.imports[name] = _conversion_function(name, lanes)
            return tirx.call_pure_extern(vector("uint16", lanes), name, value)
        kind = vector("uint32", lanes)
        bits = tirx.Var("bits", ir.PrimType(kind))

        def const(number: int) -> Any:
            return like(number, "uint32", lanes)

        odd = (bits >> const(16)) & const(1)
        rounded = (bits + (odd + const(0x7FFF))) >> const(16)
        quiet = (bits >> const(16)) | const(0x40)
        # Not `x != x`, which TVM simplifies to false.
        is_nan = (bits & const(0x7FFFFFFF)) > const(0x7F800000)
        chosen = tirx.Select(is_nan, quiet, rounded).astype(vector("uint16", lanes))
        return tirx.Let(bits, tirx.reinterpret(kind, value), chosen)


def _broadcast(node: Any) -> Any:
    """`BF16StorageLegalize` leaves the type of a broadcast as it was."""
    if not _is_bfloat16(node.ty) or not is_call(node.value, "tirx.reinterpret"):
        return node
    return tirx.reinterpret(str(node.ty), tirx.Broadcast(node.value.args[0], node.lanes))


def _is_bfloat16(dtype: Any) -> bool:
    return str(dtype).startswith("bfloat16")


def _low(pair: Any) -> Any:
    return _from_bits(tirx.reinterpret(vector("uint32", lanes_of(pair)), pair), 16)


def _high(pair: Any) -> Any:
    lanes = lanes_of(pair)
    bits = tirx.reinterpret(vector("uint32", lanes), pair)
    return tirx.reinterpret(vector("float32", lanes), bits & like(0xFFFF0000, "uint32", lanes))


def _from_bits(bits: Any, shift: int) -> Any:
    lanes = lanes_of(bits)
    return tirx.reinterpret(vector("float32", lanes), bits << like(shift, "uint32", lanes))


_PURE = "nounwind willreturn memory(none)"

_LOAD_PAIR = "tvmopt_load_pair"

_LOAD_FUNCTION = f"""
define i32 @{_LOAD_PAIR}(ptr %p) nounwind willreturn memory(argmem: read) {{
  %r = load i32, ptr %p, align 2
  ret i32 %r
}}
"""


def _dot_function(name: str, lanes: int) -> str:
    total, pairs, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    intrinsic = f"{total} @llvm.x86.avx512bf16.dpbf16ps.{_DOT_LANES[lanes]}"
    return f"""
declare {intrinsic}({total}, {halves}, {halves})
define {total} @{name}({total} %c, {pairs} %a, {pairs} %b) {_PURE} {{
  %x = bitcast {pairs} %a to {halves}
  %y = bitcast {pairs} %b to {halves}
  %r = call {intrinsic}({total} %c, {halves} %x, {halves} %y)
  ret {total} %r
}}
"""


def _conversion_function(name: str, lanes: int) -> str:
    return f"""
define <{lanes} x i16> @{name}(<{lanes} x float> %x) {_PURE} {{
  %r = fptrunc <{lanes} x float> %x to <{lanes} x bfloat>
  %b = bitcast <{lanes} x bfloat> %r to <{lanes} x i16>
  ret <{lanes} x i16> %b
}}
"""
