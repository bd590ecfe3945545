"""Integer outputs that differ only because a tie was broken the other way.

`ArgMax`, `ArgMin` and the indices of `TopK` turn a rounding error into another integer when two
floats are equal within that error. The differing positions are looked up in the floats that the
original chose by: where both choices are equal within the limit, it is a tie, not an error.
"""

from dataclasses import replace

import numpy as np
import onnx

from tvmopt.compiler.compare import limit_for
from tvmopt.compiler.executor import Array
from tvmopt.compiler.manifest import OutputError

_FOLLOWED = ("Cast", "Identity")


def chosen_from(graph: onnx.GraphProto, output: str) -> tuple[str, onnx.NodeProto] | None:
    """The tensor that `output` holds indices into, and the node that chose; None if none."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _FOLLOWED:
        output = node.input[0]
        node = makers.get(output)
    if node is None:
        return None
    is_index = node.op_type in ("ArgMax", "ArgMin")
    is_index |= node.op_type == "TopK" and list(node.output).index(output) == 1
    return (node.input[0], node) if is_index else None


def forgive_ties(
    error: OutputError, ours: Array, original: Array, values: Array, node: onnx.NodeProto
) -> OutputError:
    """The error without the positions that are ties; unchanged if any other position differs.

    Args:
        error: of the integers.
        ours: our indices.
        original: the original's indices.
        values: the floats that the original chose by.
        node: the ArgMax, ArgMin or TopK.
    """
    if values.dtype.kind != "f" or ours.shape != original.shape:
        return error
    attributes = {a.name: a.i for a in node.attribute}
    axis = attributes.get("axis", -1 if node.op_type == "TopK" else 0)
    if node.op_type != "TopK" and not attributes.get("keepdims", 1):
        ours, original = np.expand_dims(ours, axis), np.expand_dims(original, axis)
    extent = values.shape[axis]
    if ours.ndim != values.ndim or ((ours < 0) | (ours >= extent)).any():
        return error
    mine = np.take_along_axis(values, ours.astype(np.int64), axis).astype(np.float64)
    its = np.take_along_axis(values, original.astype(np.int64), axis).astype(np.float64)
    finite = values[np.isfinite(values)]
    allowed = limit_for(values.dtype) * float(np.abs(finite).max(initial=0.0))
    if not (np.abs(mine - its) <= allowed).all():
        return error
    return replace(error, max_abs=0.0, max_rel=0.0, ties=int((ours != original).sum()))
