"""`relax.matmul` becomes a call of a matrix product kernel."""

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
    shape_of,
)
from tvmopt_schedules.cpu.compute.batch_matmul import batch_matmul
from tvmopt_schedules.cpu.compute.matmul import matmul_packed, pack_weight
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import register_tile

if TYPE_CHECKING:
    from tvmopt_plugins.pack_matmul import PackMatmul


def pack_matmul(mod: tvm.IRModule, source: "PackMatmul", ctx: CompileContext) -> tvm.IRModule:
    """Rewrites the matmuls of `main` for the backend's registers."""
    machine = Machine.of(ctx.request.backend.capabilities)

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.matmul"):
            return None
        left, right = value.args
        left_shape, right_shape, shape = shape_of(left), shape_of(right), shape_of(value)
        why = None
        if left_shape is None or right_shape is None or shape is None:
            why = "its shape is not static"
        elif {dtype_of(left), dtype_of(right), dtype_of(value)} != {"float32"}:
            why = f"{dtype_of(left)} x {dtype_of(right)} is no product of float32"
        elif len(left_shape) < 2 or len(right_shape) < 2:
            why = "an operand is a vector"
        elif 0 in (*left_shape, *right_shape):
            why = "an operand is empty"
        if why is not None or left_shape is None or right_shape is None or shape is None:
            ctx.missed(source, graph.name, f"left as it is: {why}")
            return None
        weight = _weight(right, graph)
        if weight is not None:
            return _with_weight(left, weight, shape, graph, machine)
        return _of_activations(left, right, graph, machine)

    return rebuild(mod, rewrite)


def _weight(expr: relax.Expr, graph: Graph) -> np.ndarray[Any, Any] | None:
    """The right-hand side as `[K, N]` if it is constant and the same for the whole batch."""
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
    shape: tuple[int, ...],
    graph: Graph,
    machine: Machine,
) -> relax.Expr:
    columns = weight.shape[1]
    rows = int(np.prod(shape[:-1]))
    tile = register_tile(machine, rows, columns, steps=len(weight))
    panels = constant(pack_weight(weight, tile.vectors * machine.lanes))
    return graph.bb.call_te(
        matmul_packed,
        x,
        panels,
        columns,
        primfunc_name_hint="matmul",
        primfunc_attrs={"tvmopt.fusion": "anchor"},
    )


def _of_activations(
    left: relax.Expr, right: relax.Expr, graph: Graph, machine: Machine
) -> relax.Expr:
    left, left_axes = _untransposed(left, graph)
    right, right_axes = _untransposed(right, graph)

    def define(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return batch_matmul(a, b, left_axes, right_axes, machine)

    return graph.bb.call_te(
        define,
        left,
        right,
        primfunc_name_hint="batch_matmul",
        primfunc_attrs={"tvmopt.fusion": "anchor-moved"},
    )


def _untransposed(expr: relax.Expr, graph: Graph) -> tuple[relax.Expr, tuple[int, ...]]:
    """What a chain of transposes starts from, and the axes that make the operand of it."""
    axes = tuple(range(len(shape_of(expr) or ())))
    producer = graph.producer(expr)
    while is_op(producer, "relax.permute_dims"):
        given = attrs_of(producer).axes
        inner = tuple(int(a) for a in given) if given else tuple(reversed(range(len(axes))))
        axes = tuple(inner[a] for a in axes)
        expr = producer.args[0]
        producer = graph.producer(expr)
    return expr, axes
