"""From quantize and dequantize around float operators to integer arithmetic."""

from typing import TYPE_CHECKING

import tvm

from tvmopt import CompileContext
from tvmopt.rewriting import rebuild
from tvmopt_plugins.realize_quantized.activations import multiply_activations
from tvmopt_plugins.realize_quantized.arithmetic import dequantize_for_each, expand
from tvmopt_plugins.realize_quantized.averages import average_integers
from tvmopt_plugins.realize_quantized.movement import move_integers
from tvmopt_plugins.realize_quantized.products import multiply_integers, note_floats
from tvmopt_plugins.realize_quantized.requantize import requantize
from tvmopt_plugins.realize_quantized.rows import multiply_rows
from tvmopt_plugins.realize_quantized.signed import store_unsigned
from tvmopt_plugins.realize_quantized.tables import look_up
from tvmopt_plugins.realize_quantized.weights import widen_weights

if TYPE_CHECKING:
    from tvmopt_plugins.realize_quantized import RealizeQuantized


def realize(mod: tvm.IRModule, source: "RealizeQuantized", ctx: CompileContext) -> tvm.IRModule:
    """Rewrites `main` in sweeps: what is stored, what moves, what computes, the rest."""
    mod = rebuild(mod, store_unsigned, source=source, ctx=ctx)
    mod = rebuild(mod, move_integers, source=source, ctx=ctx)
    computing = (multiply_activations, multiply_integers, average_integers, requantize)
    mod = rebuild(mod, *computing, source=source, ctx=ctx)
    mod = rebuild(mod, multiply_rows, widen_weights, source=source, ctx=ctx)
    mod = rebuild(mod, look_up, source=source, ctx=ctx)
    mod = rebuild(mod, note_floats, dequantize_for_each, source=source, ctx=ctx)
    return rebuild(mod, expand, source=source, ctx=ctx)
