"""Products of two activations, such as queries with keys."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.code.dots import PAIRS, QUADS, Dot
from tvmopt_schedules.cpu.code.quads import machine_of_quads
from tvmopt_schedules.cpu.compute.matmul import ravel, unravel
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import register_tile

BATCH_MATMUL = "batch_matmul"

_DOTS: dict[str, Dot] = {"bfloat16": PAIRS, "uint8": QUADS}
_TOP_BITS = int(np.array(0x80808080, "uint32").view("int32"))
"""What turns four uint8 into the int8 that are 128 less."""


def batch_matmul(
    left: te.Tensor,
    right: te.Tensor,
    left_axes: Sequence[int],
    right_axes: Sequence[int],
    machine: Machine,
) -> te.Tensor:
    """`y[.., m, n] = sum_k a[.., m, k] * b[.., k, n]`; leading axes broadcast.

    `b` is packed into panels `[batch, panel, k, column of the panel]` on the way, zeros after the
    last column, which makes the product the same as with constant weights. Of bfloat16 operands,
    pairs along `k`, whose extent is even, are packed and multiplied; the result is float32. Of
    uint8 operands, it is quads, and `sum_k a[.., m, k] * (b[.., k, n] - 128)` in int32.

    Args:
        left: `a` before its transpose.
        right: `b` before its transpose.
        left_axes: the transpose that gives `a`, in the manner of `numpy.transpose`.
        right_axes: the transpose that gives `b`.
        machine: decides the width of a panel.
    """
    a_shape = [int(left.shape[axis]) for axis in left_axes]
    b_shape = [int(right.shape[axis]) for axis in right_axes]
    lead = [int(d) for d in np.broadcast_shapes(a_shape[:-2], b_shape[:-2])]
    rows, depth, columns = a_shape[-2], a_shape[-1], b_shape[-1]
    batch = int(np.prod(lead, dtype=np.int64))
    b_batch = int(np.prod(b_shape[:-2], dtype=np.int64))
    dot = _DOTS.get(str(left.dtype))
    size = dot.size if dot else 1
    assert depth % size == 0
    steps = depth // size
    if dot is QUADS:
        machine = machine_of_quads(machine, narrow=False)
    tile = register_tile(machine, rows, columns, steps=steps)
    panel = tile.vectors * machine.lanes
    count = -(-columns // panel)
    shared = b_batch == 1  # one right-hand side for the whole batch
    k = te.reduce_axis((0, steps), "k")

    def pack(g: tirx.Var, p: tirx.Var, d: tirx.Var, v: tirx.Var) -> Any:
        n = p * panel + v
        index = [0 if shared else at for at in unravel(g, lead)]

        def read(row: Any) -> Any:
            return right(*_operand_index(index, row, n, b_shape, right_axes))

        element = _join(dot, read, d)
        if dot is QUADS:
            element = element ^ tirx.const(_TOP_BITS, "int32")
        if columns % panel == 0:
            return element
        return tirx.if_then_else(n < columns, element, tirx.const(0, element.ty))

    packed = te.compute((1 if shared else batch, count, steps, panel), pack, name="pack_right")

    def product(g: tirx.Var, m: tirx.Var, p: tirx.Var, v: tirx.Var) -> Any:
        def read(column: Any) -> Any:
            return left(*_operand_index(unravel(g, lead), m, column, a_shape, left_axes))

        other = packed[0 if shared else g, p, k, v]
        one = _join(dot, read, k)
        return te.sum(dot.multiply(one, other) if dot else one * other, axis=k)

    result = te.compute(
        (batch, rows, count, panel),
        product,
        name="batch_matmul",
        attrs={OP_ANNOTATION: BATCH_MATMUL},
    )

    def unpack(*index: tirx.Var) -> Any:
        *group, m, n = index
        return result[ravel(group, lead) if group else 0, m, n // panel, n % panel]

    y: Any = te.compute((*lead, rows, columns), unpack, name="matmul_unpack", tag="injective")
    return y


def _join(dot: Dot | None, read: Callable[[Any], Any], step: Any) -> Any:
    """What one step of the reduction reads of an operand."""
    if dot is None:
        return read(step)
    return dot.join(*(read(dot.size * step + part) for part in range(dot.size)))


def _operand_index(
    group: Sequence[Any], row: Any, column: Any, shape: Sequence[int], axes: Sequence[int]
) -> list[Any]:
    """The index into the operand before its transpose."""
    lead = len(shape) - 2
    aligned = list(group)[len(group) - lead :]
    index = [0 if extent == 1 else at for at, extent in zip(aligned, shape[:-2], strict=True)]
    index += [row, column]
    stored = [index[0]] * len(axes)
    for at, axis in zip(index, axes, strict=True):
        stored[axis] = at
    return stored
