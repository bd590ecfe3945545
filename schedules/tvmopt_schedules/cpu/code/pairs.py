"""Products of bfloat16 numbers, two at a time: the form that AVX512-BF16's `vdpbf16ps` computes.

Two neighbours along the reduction lie side by side in memory and are one int32, the first in its
lower half. A definition reduces over pairs, `sum(dot_pairs(a, b))`, which is half as many steps,
and is scheduled like any other reduction: an accumulator is a vector of float32, the weights are a
vector of int32, and a pair of activations is broadcast to it.

The operator stays a placeholder until loops are vectorized. Then the compiler replaces
`c + dot_pairs(a, b)` by the instruction where the target has it, and by two multiplications and
additions where it has not.
"""

from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, te, tirx

from tvmopt_schedules.cpu.code.operators import pure_operator
from tvmopt_schedules.cpu.machine import Machine

DOT_PAIRS = "tvmopt.dot_pairs"
"""`(int32, int32) -> float32`: `a.low * b.low + a.high * b.high` of two pairs of bfloat16."""

PAIR_DTYPE = "int32"

PAIR = "tvmopt.pair"
"""`(bfloat16, bfloat16) -> int32`: two numbers as a pair, the first in the lower half."""

# TVM refuses an attribute that is there already. A module is imported by one thread only.
_DOT_PAIRS, _PAIR = pure_operator(DOT_PAIRS), pure_operator(PAIR)


def dot_pairs(a: Any, b: Any) -> Any:
    """The product of two pairs, as float32."""
    return ir.Call(_DOT_PAIRS, [a, b], ret_ty="float32")


def pair(low: Any, high: Any) -> Any:
    """Two bfloat16 as an int32."""
    return ir.Call(_PAIR, [low, high], ret_ty=PAIR_DTYPE)


def multiplies_pairs(machine: Machine) -> bool:
    """Whether the machine has an instruction for `DOT_PAIRS`."""
    return "avx512bf16" in machine.features


def has_pairs(func: tirx.PrimFunc) -> bool:
    """Whether the kernel multiplies pairs."""
    found: list[Any] = []

    def note(call: ir.Call) -> None:
        if call.op == _DOT_PAIRS:
            found.append(call)

    tvm_ffi.structural_walk(func.body, [(ir.Call, note)])
    return bool(found)


def in_float32(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with as many float32 operations instead of each product of pairs.

    It computes something else: TVM counts the operations of an expression, not of a placeholder.
    """

    def expand(call: ir.Call) -> Any:
        if call.op != _DOT_PAIRS:
            return call
        a, b = (tirx.Cast("float32", operand) for operand in call.args)
        return a * b + b * a

    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, expand)))


def pair_planes(data: te.Tensor) -> te.Tensor:
    """A bfloat16 image `[N, C, H, W]` as pairs of channels `[N, ceil(C / 2), H, W]`.

    The last channel of an odd number is paired with zeros.
    """
    batch, channels, height, width = (int(dim) for dim in data.shape)

    def both(n: Any, c: Any, y: Any, x: Any) -> Any:
        low, high = data[n, 2 * c, y, x], data[n, 2 * c + 1, y, x]
        if channels % 2:
            zero = tirx.const(0.0, "bfloat16")
            high = tirx.if_then_else(2 * c + 1 < channels, high, zero)
        return pair(low, high)

    shape = (batch, -(-channels // 2), height, width)
    result: Any = te.compute(shape, both, name="pair_planes")
    return result


def round_to_bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits, as uint16, of the nearest bfloat16 (ties to even); NaN stays NaN."""
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(array), (bits >> 16) | 0x40, rounded).astype("uint16")


def pack_pairs(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Rounds float32 to bfloat16 and joins neighbours along `axis`, whose extent is even."""
    bits = np.moveaxis(round_to_bfloat16(array), axis, -1)
    joined = np.ascontiguousarray(bits).view("int32")  # little-endian: the first is lower
    return np.ascontiguousarray(np.moveaxis(joined, -1, axis))


def bfloat16_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The nearest bfloat16 as float32."""
    return (round_to_bfloat16(array).astype("uint32") << np.uint32(16)).view("float32")
