"""`relax.matmul` becomes a call of a matrix product kernel."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax, te

from tvmopt import CompileContext
from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    rebuild,
    rounded_first,
    scalar_value,
    shape_of,
    stored_form,
    untransposed,
)
from tvmopt_plugins.pack_matmul.tables import Tables
from tvmopt_schedules.cpu.code.dots import PAIRS, integer_weights
from tvmopt_schedules.cpu.code.pairs import bfloat16_of, pack_pairs
from tvmopt_schedules.cpu.code.quads import SIZE, are_narrow, machine_of_quads
from tvmopt_schedules.cpu.compute.batch_matmul import batch_matmul
from tvmopt_schedules.cpu.compute.matmul import matmul_packed, pack_weight
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import register_tile

if TYPE_CHECKING:
    from tvmopt_plugins.pack_matmul import PackMatmul

_TOP_BIT = 128

_PRODUCTS = (("float32", "float32", "float32"), ("uint8", "int8", "int32"))


def pack_matmul(mod: tvm.IRModule, source: "PackMatmul", ctx: CompileContext) -> tvm.IRModule:
    """Rewrites the matmuls of `main` for the backend's registers."""
    machine = Machine.of(ctx.request.backend.capabilities)
    tables = Tables.of(mod)

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.matmul"):
            return None
        left, right = value.args
        left_shape, right_shape, shape = shape_of(left), shape_of(right), shape_of(value)
        why = None
        if left_shape is None or right_shape is None or shape is None:
            why = "its shape is not static"
        elif (types := (dtype_of(left), dtype_of(right), dtype_of(value))) not in _PRODUCTS:
            why = f"{types[0]} x {types[1]} is neither float32 nor uint8 x int8"
        elif len(left_shape) < 2 or len(right_shape) < 2:
            why = "an operand is a vector"
        elif 0 in (*left_shape, *right_shape):
            why = "an operand is empty"
        if why is not None or left_shape is None or right_shape is None or shape is None:
            ctx.missed(source, graph.name, f"left as it is: {why}")
            return None
        narrow_left, narrow_right = stored_form(left, graph), stored_form(right, graph)
        weight = _weight(right, graph)
        if dtype_of(value) == "int32":
            if weight is None:
                return _of_integer_activations(left, right, graph, machine)
            return _of_integers(left, weight, graph, machine)
        if weight is not None:
            stored = str(weight.dtype) if narrow_right is None else dtype_of(narrow_right)
            if stored == "bfloat16":
                if narrow_left is not None and len(weight) % 2 == 0:
                    left = narrow_left
                else:
                    graph.missed(f"multiplies float32: {len(weight)} rows of weights are no pairs")
                    stored, weight = "float32", bfloat16_of(weight)
            return _with_weight(left, weight, stored, shape, graph, machine, tables)
        if narrow_left is not None and narrow_right is not None:
            depth = (left_shape or (0,))[-1]
            if depth % 2 == 0:
                left, right = narrow_left, narrow_right
            else:
                graph.missed(f"multiplies float32: {depth} products are no pairs")
        return _of_activations(left, right, graph, machine)

    mod = rebuild(mod, rewrite, source=source, ctx=ctx)
    return tables.read_from_panels(mod, source, ctx)


def _weight(expr: relax.Expr, graph: Graph) -> np.ndarray[Any, Any] | None:
    """The right-hand side as `[K, N]` if it is constant and the same for the whole batch.

    It is int8 where a product of floats widens it.
    """
    narrow = stored_form(expr, graph)
    if narrow is not None:
        rounding = graph.producer(narrow)
        expr = rounding.args[0] if is_op(rounding, "relax.astype") else expr
    producer = graph.producer(expr)
    if is_op(producer, "relax.astype") and dtype_of(producer.args[0]) == "int8":
        expr = producer.args[0]
        producer = graph.producer(expr)
    if is_op(producer, "relax.permute_dims"):
        array = constant_value(producer.args[0])
        axes = attrs_of(producer).axes
        array = None if array is None else array.transpose(axes and [int(a) for a in axes])
    else:
        array = constant_value(expr)
    if array is None or any(dim != 1 for dim in array.shape[:-2]):
        return None
    return array.reshape(array.shape[-2:])


def _with_weight(
    x: relax.Expr,
    weight: np.ndarray[Any, Any],
    stored: str,
    shape: tuple[int, ...],
    graph: Graph,
    machine: Machine,
    tables: Tables,
) -> relax.Expr:
    columns = weight.shape[1]
    rows = int(np.prod(shape[:-1]))
    steps = len(weight) // 2 if stored == "bfloat16" else len(weight)
    tile = register_tile(machine, rows, columns, steps=steps)
    packed = pack_weight(weight, tile.vectors * machine.lanes)
    if stored == "bfloat16":
        packed = pack_pairs(packed, 1)
    elif stored == "float16":
        packed = packed.astype(stored)
    panels = constant(packed)
    tables.packed(weight, panels, graph.name)
    return graph.bb.call_te(
        partial(matmul_packed, columns=columns, dot=PAIRS if stored == "bfloat16" else None),
        x,
        panels,
        primfunc_name_hint="matmul",
        primfunc_attrs={"tvmopt.fusion": "anchor"},
    )


def _of_integers(
    x: relax.Expr, weight: np.ndarray[Any, Any], graph: Graph, machine: Machine
) -> relax.Expr:
    """A product of uint8 with int8 weights, four steps at once."""
    shape = shape_of(x)
    assert shape is not None
    missing = -len(weight) % SIZE
    if missing:
        x = graph.emit(relax.op.nn.pad(x, [0, 0] * (len(shape) - 1) + [0, missing]))
    padded = np.pad(weight, ((0, missing), (0, 0)))
    seen = machine_of_quads(machine, narrow=are_narrow(weight, 0))
    sizes = int(np.prod(shape[:-1])), weight.shape[1]
    tile = register_tile(seen, *sizes, steps=len(padded) // SIZE)
    packed = pack_weight(padded, tile.vectors * machine.lanes)
    weights = integer_weights(packed, machine)
    return graph.bb.call_te(
        partial(matmul_packed, columns=weight.shape[1], dot=weights.dot),
        x,
        *(constant(array) for array in weights.constants),
        primfunc_name_hint="matmul",
        primfunc_attrs={"tvmopt.fusion": "anchor"},
    )


def _of_activations(
    left: relax.Expr, right: relax.Expr, graph: Graph, machine: Machine
) -> relax.Expr:
    left, left_axes = untransposed(rounded_first(left, graph), graph)
    right, right_axes = untransposed(rounded_first(right, graph), graph)
    return _batched(left, left_axes, right, right_axes, graph, machine)


def _of_integer_activations(
    left: relax.Expr, right: relax.Expr, graph: Graph, machine: Machine
) -> relax.Expr:
    """A product of uint8 with int8, which the kernel makes of the uint8 that are 128 more."""
    left, left_axes = untransposed(left, graph)
    right, right_axes = untransposed(_raised(right, graph), graph)
    left = _in_quads(left, left_axes[-1], graph)
    right = _in_quads(right, right_axes[-2], graph)
    return _batched(left, left_axes, right, right_axes, graph, machine)


def _raised(right: relax.Expr, graph: Graph) -> relax.Expr:
    """int8 plus 128: the uint8 that they were made of, if they were."""
    value = graph.producer(right)
    flipped = graph.producer(value.args[0]) if is_op(value, "relax.astype") else None
    if is_op(flipped, "relax.bitwise_xor") and scalar_value(flipped.args[1]) == _TOP_BIT:
        return flipped.args[0]
    wide, top_bit = relax.op.astype(right, "uint8"), relax.const(_TOP_BIT, "uint8")
    return graph.emit(relax.op.bitwise_xor(wide, top_bit))


def _in_quads(operand: relax.Expr, axis: int, graph: Graph) -> relax.Expr:
    """The operand with zeros at the end of the axis that is summed over."""
    shape = shape_of(operand)
    assert shape is not None
    missing = -shape[axis] % SIZE
    if not missing:
        return operand
    widths = [0] * (2 * len(shape))
    widths[2 * axis + 1] = missing
    return graph.emit(relax.op.nn.pad(operand, widths))


def _batched(
    left: relax.Expr,
    left_axes: tuple[int, ...],
    right: relax.Expr,
    right_axes: tuple[int, ...],
    graph: Graph,
    machine: Machine,
) -> relax.Expr:
    def define(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return batch_matmul(a, b, left_axes, right_axes, machine)

    return graph.bb.call_te(
        define,
        left,
        right,
        primfunc_name_hint="batch_matmul",
        primfunc_attrs={"tvmopt.fusion": "anchor-moved"},
    )
