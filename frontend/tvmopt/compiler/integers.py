"""Products of 8-bit integers in vectorized kernels, four at a time, and the rounding to integers.

`DOT_QUADS` and `DOT_NARROW_QUADS` become `vpdpbusd` (VNNI), `vpmaddubsw` and `vpmaddwd` (AVX2,
AVX-512BW), or plain integer arithmetic; all are exact. `ROUND_TO_INT32` becomes `vcvtps2dq`.
"""

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, tirx

from tvmopt.compiler.marked_steps import DOT_FITTING_OCTS, READ_AGAIN
from tvmopt.compiler.placeholders import (
    are_neighbours,
    features_of,
    is_call,
    is_constant,
    lanes_of,
    like,
    operator,
    vector,
    with_functions,
)
from tvmopt.compiler.quantized_registers import (
    ROUND_TO_INT32,
    bounds_of,
    keep_in_registers,
    rounded_of,
    scalar_type,
)

DOT_QUADS = "tvmopt.dot_quads"
"""`(int32, int32) -> int32`: the sum of the products of four uint8 with four int8."""

DOT_NARROW_QUADS = "tvmopt.dot_narrow_quads"
"""The same where the sum of the first, and of the last two products is known to fit in int16."""

QUAD = "tvmopt.quad"
"""`(uint8, uint8, uint8, uint8) -> int32`: four numbers, the first in the lowest byte."""


def lower_integers(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Replaces the placeholders in a kernel with vectorized loops."""
    return _Lowering(features_of(func)).apply(func)


def fastest_dot(features: frozenset[str]) -> tuple[int, Any]:
    """The fastest instructions, which are exact for suitable numbers alone.

    Returns:
        How many products they add up in each lane, and a function of two vectors of quads.
    """
    if not features.isdisjoint({"avx512vnni", "avxvnni"}) or features.isdisjoint(_WORDS):
        return 4, lambda a, b: ir.Call(operator(DOT_NARROW_QUADS), [a, b], ret_ty="int32")
    octs = operator(DOT_FITTING_OCTS)
    return 8, lambda a, b: ir.Call(octs, [a, b, b, a], ret_ty="int32")


class _Lowering:
    """Rewrites one kernel and collects the functions it needs."""

    def __init__(self, features: frozenset[str]) -> None:
        self.features = features
        self.imports: dict[str, str] = {}

    def apply(self, func: Any) -> Any:
        body = keep_in_registers(func.body)
        if "avx2" in self.features and "avx512vl" not in self.features:
            body = tvm_ffi.structural_map(body, (tirx.Cast, self._store))
        body = tvm_ffi.structural_map(body, (tirx.Add, self._add))
        body = tvm_ffi.structural_map(body, (ir.Call, self._call))
        if body.same_as(func.body):
            return func
        return func.with_body(with_functions(body, self.imports.values()))

    def _store(self, cast: tirx.Cast) -> Any:
        """Eight quantized numbers are packed with saturation, which bounds them below, too."""
        lanes = lanes_of(cast)
        bounds = bounds_of(cast.value)
        if scalar_type(cast) != "uint8" or lanes != _PACKED_LANES or bounds is None:
            return cast
        if bounds[0] < 0 or bounds[1] > np.iinfo("uint8").max:
            return cast
        value = cast.value
        rounded, _ = rounded_of(value)
        inner = rounded.args[0]
        if bounds[0] == 0 and isinstance(inner, tirx.Max) and isinstance(inner.b, tirx.Min):
            unbounded = ir.Call(rounded.op, [inner.b], ret_ty=rounded.ty)
            value = tirx.Add(unbounded, value.b) if isinstance(value, tirx.Add) else unbounded
        self.imports[_PACK] = _PACK_FUNCTION
        return tirx.call_pure_extern(vector("uint8", lanes), _PACK, value)

    def _add(self, node: Any) -> Any:
        for total, product in ((node.a, node.b), (node.b, node.a)):
            if _is_dot(product):
                return self._dot(total, product)
        return node

    def _call(self, call: Any) -> Any:
        if _is_dot(call):
            return self._dot(like(0, "int32", lanes_of(call)), call)
        if is_call(call, ROUND_TO_INT32):
            return self._rounded(*call.args)
        if is_call(call, READ_AGAIN):
            self.imports[_LOAD_AGAIN] = _AGAIN_FUNCTION
            return tirx.call_pure_extern("int32", _LOAD_AGAIN, *call.args)
        return self._quad(*call.args) if is_call(call, QUAD) else call

    def _rounded(self, value: Any) -> Any:
        value, lanes = _nan_is_lowest(value), lanes_of(value)
        if self.features.isdisjoint(_ROUNDS.get(lanes, ())):
            return tirx.nearbyint(value).astype(vector("int32", lanes))
        name = f"tvmopt_round_{lanes}"
        self.imports[name] = _rounding_function(name, lanes)
        return tirx.call_pure_extern(vector("int32", lanes), name, value)

    def _dot(self, total: Any, call: Any) -> Any:
        lanes = lanes_of(total)
        if is_call(call, DOT_FITTING_OCTS):
            function = _octs(lanes, self.features)
        else:
            function = _function(lanes, self.features, narrow=is_call(call, DOT_NARROW_QUADS))
        if function is None:
            count = len(call.args) // 2
            for a, b in zip(call.args[:count], call.args[count:], strict=True):
                total = total + _in_int32(a, b)
            return total
        name, text = function
        self.imports[name] = text
        return tirx.call_pure_extern(vector("int32", lanes), name, total, *call.args)

    def _quad(self, *parts: Any) -> Any:
        if are_neighbours(*parts):
            self.imports[_LOAD_QUAD] = _LOAD_FUNCTION
            return tirx.call_pure_extern("int32", _LOAD_QUAD, tirx.address_of(parts[0]))
        lanes = lanes_of(parts[0])
        wide = vector("uint32", lanes)
        bits: Any = parts[0].astype(wide)
        for byte, part in enumerate(parts[1:], start=1):
            bits = bits | (part.astype(wide) << like(8 * byte, "uint32", lanes))
        return tirx.reinterpret(vector("int32", lanes), bits)


def _is_dot(expr: Any) -> bool:
    return any(is_call(expr, name) for name in (DOT_QUADS, DOT_NARROW_QUADS, DOT_FITTING_OCTS))


def _nan_is_lowest(value: Any) -> Any:
    """`max(low, min(high, x))` as `min(max(x, low), high)`, which is `low` for NaN.

    A quantization of NaN has no result in ONNX, but ONNX Runtime's is this one, and masks of
    -FLT_MAX, whose own rounding is -inf, make NaN of every position that they let pass.
    """
    if not isinstance(value, tirx.Max) or not isinstance(value.b, tirx.Min):
        return value
    low, high, x = value.a, value.b.a, value.b.b
    if not (is_constant(low) and is_constant(high)):
        return value
    return tirx.Min(tirx.Max(x, low), high)


def _in_int32(a: Any, b: Any) -> Any:
    lanes = lanes_of(a)

    def shift(bits: int) -> Any:
        return like(bits, "int32", lanes)

    products = [
        ((a >> shift(8 * byte)) & shift(0xFF)) * ((b << shift(24 - 8 * byte)) >> shift(24))
        for byte in range(4)
    ]
    return (products[0] + products[1]) + (products[2] + products[3])


_ROUNDS = {16: ("avx512f",), 8: ("avx",), 4: ("sse4.2",)}
"""By lanes: features, one of which a rounding instruction needs."""

_PURE = "nounwind willreturn memory(none)"

_PACK = "tvmopt_pack_8"
_PACKED_LANES = 8
_PACK_FUNCTION = f"""
declare <8 x i16> @llvm.x86.sse2.packssdw.128(<4 x i32>, <4 x i32>)
declare <16 x i8> @llvm.x86.sse2.packuswb.128(<8 x i16>, <8 x i16>)
define <8 x i8> @{_PACK}(<8 x i32> %x) {_PURE} {{
  %l = shufflevector <8 x i32> %x, <8 x i32> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %h = shufflevector <8 x i32> %x, <8 x i32> poison, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %w = call <8 x i16> @llvm.x86.sse2.packssdw.128(<4 x i32> %l, <4 x i32> %h)
  %b = call <16 x i8> @llvm.x86.sse2.packuswb.128(<8 x i16> %w, <8 x i16> %w)
  %q = bitcast <16 x i8> %b to <2 x i64>
  %e = extractelement <2 x i64> %q, i32 0
  %r = bitcast i64 %e to <8 x i8>
  ret <8 x i8> %r
}}
"""

_LOAD_QUAD = "tvmopt_load_quad"

_LOAD_FUNCTION = f"""
define i32 @{_LOAD_QUAD}(ptr %p) nounwind willreturn memory(argmem: read) {{
  %r = load i32, ptr %p, align 1
  ret i32 %r
}}
"""

_LOAD_AGAIN = "tvmopt_load_again"

_AGAIN_FUNCTION = f"""
define i32 @{_LOAD_AGAIN}(ptr %p) nounwind willreturn {{
  %r = load volatile i32, ptr %p, align 1
  ret i32 %r
}}
"""

# By lanes: the products of bytes, and of words.
_MULTIPLY_ADD = {
    16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    4: ("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
}
_WORDS_FEATURE = {16: "avx512bw", 8: "avx2", 4: "ssse3"}
_WORDS = frozenset(_WORDS_FEATURE.values())


def _function(lanes: int, features: frozenset[str], *, narrow: bool) -> tuple[str, str] | None:
    """Name and text of a function `(total, a, b) -> total + a * b`; None without instructions."""
    if lanes not in _MULTIPLY_ADD:
        return None
    if "avx512vnni" in features or ("avxvnni" in features and lanes < 16):
        return _vnni(lanes)
    if _WORDS_FEATURE[lanes] not in features:
        return None
    return _narrow(lanes) if narrow else _wide(lanes)


def _vnni(lanes: int) -> tuple[str, str]:
    name, quads, octets = f"tvmopt_vnni_{lanes}", f"<{lanes} x i32>", f"<{4 * lanes} x i8>"
    intrinsic = f"{quads} @llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    text = f"""
declare {intrinsic}({quads}, {octets}, {octets})
define {quads} @{name}({quads} %c, {quads} %a, {quads} %b) {_PURE} {{
  %x = bitcast {quads} %a to {octets}
  %y = bitcast {quads} %b to {octets}
  %r = call {intrinsic}({quads} %c, {octets} %x, {octets} %y)
  ret {quads} %r
}}
"""
    return name, text


def _narrow(lanes: int) -> tuple[str, str]:
    name = f"tvmopt_narrow_quads_{lanes}"
    quads, words, octets = f"<{lanes} x i32>", f"<{2 * lanes} x i16>", f"<{4 * lanes} x i8>"
    of_octets, of_words = _MULTIPLY_ADD[lanes]
    text = f"""
declare {words} @{of_octets}({octets}, {octets})
declare {quads} @{of_words}({words}, {words})
define {quads} @{name}({quads} %c, {quads} %a, {quads} %b) {_PURE} {{
  %x = bitcast {quads} %a to {octets}
  %y = bitcast {quads} %b to {octets}
  %p = call {words} @{of_octets}({octets} %x, {octets} %y)
  %s = call {quads} @{of_words}({words} %p, {words} {_splat(2 * lanes, 1)})
  %r = add {quads} %c, %s
  ret {quads} %r
}}
"""
    return name, text


def _octs(lanes: int, features: frozenset[str]) -> tuple[str, str] | None:
    """The same with two quads on each side, whose products are added in 16 bits."""
    if _WORDS_FEATURE.get(lanes) not in features:
        return None
    name = f"tvmopt_octs_{lanes}"
    quads, words, octets = f"<{lanes} x i32>", f"<{2 * lanes} x i16>", f"<{4 * lanes} x i8>"
    of_octets, of_words = _MULTIPLY_ADD[lanes]
    text = f"""
declare {words} @{of_octets}({octets}, {octets})
declare {quads} @{of_words}({words}, {words})
define {quads} @{name}({quads} %c, {quads} %a0, {quads} %a1, {quads} %b0, {quads} %b1) {_PURE} {{
  %x0 = bitcast {quads} %a0 to {octets}
  %x1 = bitcast {quads} %a1 to {octets}
  %y0 = bitcast {quads} %b0 to {octets}
  %y1 = bitcast {quads} %b1 to {octets}
  %p0 = call {words} @{of_octets}({octets} %x0, {octets} %y0)
  %p1 = call {words} @{of_octets}({octets} %x1, {octets} %y1)
  %p = add {words} %p0, %p1
  %s = call {quads} @{of_words}({words} %p, {words} {_splat(2 * lanes, 1)})
  %r = add {quads} %c, %s
  ret {quads} %r
}}
"""
    return name, text


def _wide(lanes: int) -> tuple[str, str]:
    """Bytes at even and at odd places are words of their own: what they add up to fits in int32."""
    name = f"tvmopt_wide_quads_{lanes}"
    quads, words = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    of_words = _MULTIPLY_ADD[lanes][1]
    eight, low = _splat(2 * lanes, 8), _splat(2 * lanes, 255)
    text = f"""
declare {quads} @{of_words}({words}, {words})
define {quads} @{name}({quads} %c, {quads} %a, {quads} %b) {_PURE} {{
  %x = bitcast {quads} %a to {words}
  %y = bitcast {quads} %b to {words}
  %x0 = and {words} %x, {low}
  %x1 = lshr {words} %x, {eight}
  %yl = shl {words} %y, {eight}
  %y0 = ashr {words} %yl, {eight}
  %y1 = ashr {words} %y, {eight}
  %p0 = call {quads} @{of_words}({words} %x0, {words} %y0)
  %p1 = call {quads} @{of_words}({words} %x1, {words} %y1)
  %p = add {quads} %p0, %p1
  %r = add {quads} %c, %p
  ret {quads} %r
}}
"""
    return name, text


def _rounding_function(name: str, lanes: int) -> str:
    floats, words = f"<{lanes} x float>", f"<{lanes} x i32>"
    intrinsic = f"{words} @llvm.lrint.v{lanes}i32.v{lanes}f32"
    return f"""
declare {intrinsic}({floats})
define {words} @{name}({floats} %x) {_PURE} {{
  %r = call {intrinsic}({floats} %x)
  ret {words} %r
}}
"""


def _splat(lanes: int, value: int) -> str:
    return "<" + ", ".join([f"i16 {value}"] * lanes) + ">"
