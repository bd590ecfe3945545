"""Differences that rounding explains although they are beyond the limit: ties and quantization.

`ArgMax`, `ArgMin` and the indices of `TopK` turn a rounding error into another integer when two
floats are equal within that error. The differing positions are looked up in the floats that the
original chose by: where both choices are equal within the limit, it is a tie, not an error.

`QuantizeLinear` turns one into a whole step when a float lies halfway between two integers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from tvmopt.compiler.compare import compare, is_within, limit_for
from tvmopt.compiler.executor import Array
from tvmopt.compiler.manifest import OutputError
from tvmopt.compiler.reference import Reference

QUANTIZED_LIMIT = 3 / 127
"""Three steps of an int8 whose largest value is the tensor's: a step that differs in one layer
makes up to two more in those after it."""

_NUDGE = 2.0**-13
"""What scales are stretched by to see how far single steps move an output: one integer in a hundred
comes out as its neighbour, about as many as where sums are rounded in another order."""

_MOST = 0.5
"""No output may be further off than this, however far single steps move it."""

_FOLLOWED = ("Cast", "Identity")
_QUANTIZING = ("QuantizeLinear", "DynamicQuantizeLinear")
_SCALED = ("QuantizeLinear", "DequantizeLinear")


def forgive(
    errors: Sequence[OutputError],
    ours: Mapping[str, Array],
    theirs: Mapping[str, Array],
    reference: Reference,
    graph: onnx.GraphProto,
    inputs: Mapping[str, Array],
) -> list[OutputError]:
    """The errors, judged again: without ties, and by `QUANTIZED_LIMIT` in a quantized graph."""
    by_steps = is_quantized(graph)
    judged: list[OutputError] = []
    for error in errors:
        mine, its = ours[error.output], theirs[error.output]
        choice = chosen_from(graph, error.output)
        if not is_within(error) and choice is not None:
            source, node = choice
            known = inputs if source in inputs else reference.run(inputs, [source])
            values = known[source]
            error = forgive_ties(error, mine, its, values, node)
        elif by_steps and (its.dtype.kind == "f" or its.dtype.itemsize == 1):
            error = replace(error, limit=max(error.limit, QUANTIZED_LIMIT))
        judged.append(error)
    return judged


def is_quantized(graph: onnx.GraphProto) -> bool:
    """Whether the graph quantizes anything at run time."""
    return any(node.op_type in _QUANTIZING for node in graph.node)


def step_limits(
    model: onnx.ModelProto,
    reference: Reference,
    theirs: Mapping[str, Array],
    inputs: Mapping[str, Array],
) -> dict[str, float]:
    """How far outputs of a deep quantized network may be off, by name: twice what a nudge does.

    Networks of many layers carry on each step that is rounded the other way. The original itself,
    with all its scales stretched by `_NUDGE`, tells how far.

    Args:
        model: the original; its scales are changed.
        reference: what runs it.
        theirs: its outputs.
        inputs: what they are computed of.
    """
    scales = {node.input[1] for node in model.graph.node if node.op_type in _SCALED}
    for tensor in model.graph.initializer:
        if tensor.name in scales and tensor.data_type == onnx.TensorProto.FLOAT:
            scale = numpy_helper.to_array(tensor) * np.float32(1 + _NUDGE)
            tensor.CopyFrom(numpy_helper.from_array(scale, tensor.name))
    nudged = reference.run_other(model, inputs, list(theirs))
    return {
        name: min(_MOST, max(QUANTIZED_LIMIT, 2 * compare(name, nudged[name], exact).max_rel))
        for name, exact in theirs.items()
        if exact.dtype.kind == "f" or exact.dtype.itemsize == 1
    }


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
