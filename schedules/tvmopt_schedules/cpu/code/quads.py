"""Products of 8-bit integers, four at a time: the form that VNNI's `vpdpbusd` computes.

Four neighbours along the reduction lie side by side in memory and are one int32, the first in its
lowest byte: unsigned ones on the left, which are activations, signed ones on the right, which are
weights. A definition reduces over quads, a quarter of the steps; an accumulator is a vector of
int32, the weights are a vector of quads, and a quad of activations is broadcast to it.

Like those of `tvmopt_schedules.cpu.code.pairs`, the operators stay placeholders until loops are
vectorized. The sums are exact on every target.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, te, tirx

from tvmopt_schedules.cpu.code.marked_quads import DOT_MARKED_QUADS, DOT_OCTS
from tvmopt_schedules.cpu.code.operators import pure_operator
from tvmopt_schedules.cpu.machine import Machine

DOT_QUADS = "tvmopt.dot_quads"
"""`(int32, int32) -> int32`: the sum of the products of four uint8 with four int8."""

DOT_NARROW_QUADS = "tvmopt.dot_narrow_quads"
"""`DOT_QUADS` where the sum of the first, and of the last two products is known to fit in int16."""

QUAD = "tvmopt.quad"
"""`(uint8, uint8, uint8, uint8) -> int32`: four numbers as a quad."""

QUAD_DTYPE = "int32"

SIZE = 4

_VNNI = frozenset({"avx512vnni", "avxvnni"})
_LARGEST_UINT8 = 255
_RATES = {
    DOT_QUADS: 0.27,
    DOT_NARROW_QUADS: 0.5,
    DOT_MARKED_QUADS: 0.5,
    DOT_OCTS: 0.67,
}
"""Quads that are multiplied without VNNI, over float32 multiply-adds."""


_DOTS = {
    False: pure_operator(DOT_QUADS),
    True: pure_operator(DOT_NARROW_QUADS),
}
_QUAD = pure_operator(QUAD)


def dot_quads(a: Any, b: Any, *, narrow: bool = False) -> Any:
    """The sum of the products of two quads, as int32."""
    return ir.Call(_DOTS[narrow], [a, b], ret_ty="int32")


def quad(*parts: Any) -> Any:
    """Four uint8 as an int32."""
    return ir.Call(_QUAD, list(parts), ret_ty=QUAD_DTYPE)


def adds_in_int32(machine: Machine) -> bool:
    """Whether the machine has an instruction for `DOT_QUADS`."""
    return not _VNNI.isdisjoint(machine.features)


def machine_of_quads(machine: Machine, *, narrow: bool) -> Machine:
    """The machine as a reduction over quads sees it: a product of quads counts as a multiply-add.

    Without VNNI, narrow products are `vpmaddubsw`, `vpmaddwd` and an addition; others take both
    halves apart first. Measured on Zen 3: 32 and 17 products in a cycle (float32: 16).
    """
    return _multiplying(machine, DOT_NARROW_QUADS if narrow else DOT_QUADS)


def _multiplying(machine: Machine, dot: str) -> Machine:
    if adds_in_int32(machine):
        return machine
    return replace(
        machine,
        fmas_per_cycle=machine.fmas_per_cycle * _RATES[dot],
        fma_latency=1.0,
        weight_registers=2 if dot == DOT_OCTS else 1,
        other_registers=5 if dot == DOT_OCTS else 3,
        adds_in_place=False,
    )


def are_narrow(weight: np.ndarray[Any, Any], axis: int) -> bool:
    """Whether sums of two products, with neighbours along `axis` and any uint8, fit in int16."""
    pairs = np.moveaxis(weight, axis, -1).astype("int16")
    if pairs.shape[-1] % 2:
        pairs = np.concatenate([pairs, np.zeros_like(pairs[..., :1])], -1)
    first, second = pairs[..., 0::2], pairs[..., 1::2]
    most = np.maximum(first, 0) + np.maximum(second, 0)
    least = np.minimum(first, 0) + np.minimum(second, 0)
    reach = max(int(most.max(initial=0)), -int(least.min(initial=0)))
    return reach * _LARGEST_UINT8 <= np.iinfo("int16").max


def machine_of_kernel(machine: Machine, func: tirx.PrimFunc) -> Machine:
    """The machine as the kernel's reductions see it, see `machine_of_quads`."""
    found = _dots_of(func)
    return _multiplying(machine, min(found, key=_RATES.__getitem__)) if found else machine


def has_quads(func: tirx.PrimFunc) -> bool:
    """Whether the kernel multiplies quads."""
    return bool(_dots_of(func))


def has_octs(func: tirx.PrimFunc) -> bool:
    """Whether the kernel multiplies two quads at once."""
    return DOT_OCTS in _dots_of(func)


def in_int32(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with as many operations in int32 instead of each product of quads.

    It computes something else: TVM counts the operations of an expression, not of a placeholder.
    """

    def expand(call: ir.Call) -> Any:
        name = _dot_name(call)
        if name is None:
            return call
        a, b = call.args[:2]
        products = a * b + b * a + a * a + b * b
        return products + products if name == DOT_OCTS else products

    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, expand)))


def _dots_of(func: tirx.PrimFunc) -> set[str]:
    found: set[str] = set()

    def note(call: ir.Call) -> None:
        name = _dot_name(call)
        if name is not None:
            found.add(name)

    tvm_ffi.structural_walk(func.body, [(ir.Call, note)])
    return found


def _dot_name(call: ir.Call) -> str | None:
    return call.op.name if isinstance(call.op, ir.Op) and call.op.name in _RATES else None


def quad_planes(data: te.Tensor) -> te.Tensor:
    """A uint8 image `[N, C, H, W]` as quads of channels `[N, ceil(C / 4), H, W]`, zeros beyond."""
    batch, channels, height, width = (int(dim) for dim in data.shape)

    def part(n: Any, c: Any, y: Any, x: Any, offset: int) -> Any:
        at = SIZE * c + offset
        if channels % SIZE == 0:
            return data[n, at, y, x]
        return tirx.if_then_else(at < channels, data[n, at, y, x], tirx.const(0, data.dtype))

    shape = (batch, -(-channels // SIZE), height, width)
    result: Any = te.compute(
        shape,
        lambda n, c, y, x: quad(*(part(n, c, y, x, offset) for offset in range(SIZE))),
        name="quad_planes",
    )
    return result


def pack_quads(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Joins four neighbours of an int8 array along `axis`, whose extent is a multiple of four."""
    moved = np.ascontiguousarray(np.moveaxis(array, axis, -1))
    joined = moved.view("<i4")  # little-endian: the first is lowest
    return np.ascontiguousarray(np.moveaxis(joined, -1, axis))
