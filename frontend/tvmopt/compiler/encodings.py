"""The encodings of a quantized module, by the names of the original ONNX file."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import tvm
from tvm import relax

from tvmopt.compiler.manifest import own_version
from tvmopt.model import CompileRequest
from tvmopt.report import Steps
from tvmopt.rewriting import attrs_of, constant_value, dtype_of, is_op

FORMAT_VERSION = 1


def encodings_of(
    module: tvm.IRModule, request: CompileRequest, node_outputs: Mapping[str, str]
) -> dict[str, Any]:
    """What `q = saturate(round(x / scale) + zero_point)` is for each tensor, as plain data.

    Args:
        module: with quantize and dequantize, all scales constant.
        request: what it was made for.
        node_outputs: name of the first output tensor of each node of the original, by node.

    Returns:
        `activations` by the name of the tensor, `weights` by the name of the node that reads it;
        each has `dtype`, `scale`, `zero_point` and `axis`, null where one scale is for all.
    """
    func: Any = module["main"]
    bindings = {b.var: b.value for block in func.body.blocks for b in block.bindings}
    params = {param.name for param in func.params}
    activations: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    for var, value in bindings.items():
        if is_op(value, "relax.quantize"):
            node = var.name.rpartition("|")[2]
            name = var.name if var.name in params else node_outputs.get(node, node)
            activations[name] = _encoding(value, dtype_of(var))
        elif is_op(value, "relax.dequantize") and _is_weight(value.args[0]):
            weights[var.name.partition("|")[0]] = _encoding(value, dtype_of(value.args[0]))
    return {
        "format": FORMAT_VERSION,
        "tvmopt": own_version(),
        "tvm": version("apache-tvm"),
        "model": request.source.path.name,
        "target": request.backend.device,
        "activations": activations,
        "weights": weights,
    }


def steps_of(module: tvm.IRModule) -> dict[str, Steps]:
    """What the integers of activations stand for, by node; of those with one scale for all."""
    found: dict[str, Steps] = {}
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            if not is_op(binding.value, "relax.quantize"):
                continue
            scale, zero_point = (constant_value(arg) for arg in binding.value.args[1:3])
            if scale is not None and zero_point is not None and scale.size == zero_point.size == 1:
                node = binding.var.name.rpartition("|")[2]
                found[node] = Steps(scale.item(), zero_point.item(), dtype_of(binding.var))
    return found


def _is_weight(operand: relax.Expr) -> bool:
    """Whether it is a quantized constant; the scale of a bias follows from those of its product."""
    return not isinstance(operand, relax.Var) and dtype_of(operand) != "int32"


def _encoding(value: relax.Call, dtype: str) -> dict[str, Any]:
    scale, zero_point = (constant_value(arg) for arg in value.args[1:3])
    assert scale is not None
    assert zero_point is not None
    return {
        "dtype": dtype,
        "scale": scale.tolist(),
        "zero_point": zero_point.tolist(),
        "axis": int(attrs_of(value).axis) if scale.ndim else None,
    }
