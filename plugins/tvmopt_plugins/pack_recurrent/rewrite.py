"""A call of a recurrent layer's plain loops becomes a call of a kernel for the backend's registers.

The projection of the inputs in front of it is a matmul like any other.
"""

from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.recurrence import Recurrence, recurrence_of
from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, rebuild, shape_of
from tvmopt_schedules.cpu.compute.recurrent import Layer, pack_weight
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.recurrent.kernel import recurrent_kernel
from tvmopt_schedules.cpu.recurrent.plan import plan

if TYPE_CHECKING:
    from tvmopt_plugins.pack_recurrent import PackRecurrent


def pack_recurrent_layers(
    mod: tvm.IRModule, source: "PackRecurrent", ctx: CompileContext
) -> tvm.IRModule:
    """Rewrites the recurrent layers of `main`."""
    machine = Machine.of(ctx.request.backend.capabilities)
    layers = {var.name_hint: recurrence_of(func) for var, func in mod.functions_items()}

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.call_tir"):
            return None
        what = layers.get(value.args[0].name_hint)
        if what is None:
            return None
        operands = list(value.args[1].fields)
        weight = constant_value(operands[1])
        dtype = dtype_of(operands[0])
        if weight is None:
            graph.missed("left as plain loops: its recurrent weights are computed")
            return None
        if dtype != "float32":
            graph.missed(f"left as plain loops: its kernel computes in float32, not in {dtype}")
            return None
        return _with_weight(what, value, operands, weight, graph, machine)

    return rebuild(mod, rewrite, source=source, ctx=ctx)


def _with_weight(
    what: Recurrence,
    call: relax.Call,
    operands: list[relax.Expr],
    weight: np.ndarray,
    graph: Graph,
    machine: Machine,
) -> relax.Expr:
    steps, batch, _ = shape_of(operands[0]) or (0, 0, 0)
    layer = Layer(what, steps, batch, hidden=weight.shape[2])
    chosen = plan(machine, layer)
    panels = [
        relax.const(pack_weight(weight, phase.gates, tile, machine.lanes), "float32")
        for phase, tile in zip(what.phases, chosen.tiles, strict=True)
    ]
    kernel = recurrent_kernel(machine, layer, chosen)
    callee = graph.bb.add_func(kernel, what.cell.lower())
    arguments = [operands[0], *panels, *operands[2:]]
    return relax.call_tir(callee, arguments, list(call.ty_args[0].fields))
