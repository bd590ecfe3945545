"""What 16-bit arithmetic may cost: measured on the original model, with its weights rounded.

How far rounding moves an output depends on the model: a well-conditioned one hardly, one whose
outputs are small differences of large numbers a lot. The original, run in float32 with the weights
of its convolutions and matrix products rounded to the 16-bit type, tells how much that is.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from tvmopt.compiler.compare import compare
from tvmopt.compiler.executor import Array
from tvmopt.compiler.reference import Reference

if TYPE_CHECKING:
    from tvmopt.compiler.importer import ImportedModel

FACTOR = 4.0
"""How much further than with rounded weights alone an output may be off.

Activations are rounded as the weights are, and once more where a kernel stores them: three equal
and independent errors, sqrt(3) together. The rest is for the spread of the largest one. Of 13
models (ResNets to a GPT), the largest ratio seen is 2.2 in bfloat16."""

LEAST = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Two roundings of the result's largest magnitude: what weights that happen to be exact leave."""

_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def rounding_limits(
    imported: "ImportedModel",
    reference: Reference,
    exact: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: str,
) -> dict[str, float]:
    """The largest relative error (see `compare`) of each float output, by name.

    Args:
        imported: the original.
        reference: what runs it.
        exact: the original's outputs.
        inputs: what they are computed of.
        dtype: `bfloat16` or `float16`.
    """
    model = imported.original()
    round_weights(model.graph, dtype)
    names = [name for name, value in exact.items() if value.dtype.kind == "f"]
    rounded = reference.run_other(model, inputs, names)
    return {
        name: max(LEAST[dtype], FACTOR * compare(name, rounded[name], exact[name]).max_rel)
        for name in names
    }


def round_weights(graph: onnx.GraphProto, dtype: str) -> int:
    """Rounds, in place, the float32 constants that products read; returns how many."""
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    names = {name for node in products for name in node.input[:2]}
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    count = 0
    for name in names & tensors.keys():
        tensor = tensors[name]
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        rounded = round_to(numpy_helper.to_array(tensor), dtype)
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        count += 1
    return count


def round_to(array: Array, dtype: str) -> Array:
    """The nearest numbers of the 16-bit type (ties to even), as float32."""
    if dtype == "float16":
        return array.astype("float16").astype("float32")
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    bits = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(array), array, bits.view("float32")).reshape(array.shape)


def quality(ours: Array, exact: Array) -> tuple[float | None, float | None]:
    """Signal to noise in dB, and in which part of the rows the largest element is the same one.

    Both are None where they mean nothing: no finite float, or no rows `[N, classes]` with at least
    10 classes.
    """
    if exact.dtype.kind != "f" or ours.shape != exact.shape or not exact.size:
        return None, None
    a, b = ours.astype(np.float64), exact.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None, None
    noise, signal = float(((a - b) ** 2).sum()), float((b**2).sum())
    ratio_db = 10 * np.log10(signal / noise) if noise and signal else None
    top_1 = None
    if exact.ndim == 2 and exact.shape[1] >= 10:
        top_1 = float((a.argmax(1) == b.argmax(1)).mean())
    return ratio_db, top_1
