"""A quantized model as floats compute it: what its integer kernels are held against."""

from collections.abc import Sequence

import tvm
from tvm import relax

from tvmopt.compiler.calibrate import compile_floats
from tvmopt.compiler.executor import Executor
from tvmopt.model import CompileRequest, TensorSpec
from tvmopt.plugins import Plugins
from tvmopt.quantization import Array, along, dequantize
from tvmopt.rewriting import Graph, attrs_of, constant, constant_value, is_op, rebuild


def simulation(
    mod: tvm.IRModule,
    request: CompileRequest,
    plugins: Plugins,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Executor:
    """Compiles a module with quantize and dequantize for this machine, all else in float32.

    Weights are dequantized ahead, so that float kernels lay them out.
    """
    return compile_floats(dequantize_ahead(mod), request, plugins, inputs, outputs)


def dequantize_ahead(mod: tvm.IRModule) -> tvm.IRModule:
    """Constants as the floats that their integers stand for."""
    return rebuild(mod, _constant)


def _constant(value: relax.Expr, _graph: Graph) -> relax.Expr | None:
    if not is_op(value, "relax.dequantize"):
        return None
    integers, scale, zero_point = (constant_value(arg) for arg in value.args)
    if integers is None or scale is None or zero_point is None:
        return None
    axis, rank = int(attrs_of(value).axis), integers.ndim
    return constant(
        dequantize(integers, _spread(scale, axis, rank), _spread(zero_point, axis, rank))
    )


def _spread(parameter: Array, axis: int, rank: int) -> Array:
    return along(parameter, axis, rank) if parameter.ndim else parameter
