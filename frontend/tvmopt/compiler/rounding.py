"""What 16-bit arithmetic may cost: measured on the original model, with its weights rounded.

How far rounding moves an output depends on the model: a well-conditioned one hardly, one whose
outputs are small differences of large numbers a lot. The original, run in float32 with the weights
of its convolutions and matrix products rounded to the 16-bit type, tells how much that is.

That rounding explains an error does not make a result of use. So there are absolute bounds, which
hold for every model:

    relative error    `MOST` at most, whatever the weights alone do: an error
    signal to noise   under `LEAST_SQNR_DB`: an error; under `POOR_SQNR_DB`: a warning in the report
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from tvmopt.compiler.compare import compare
from tvmopt.compiler.executor import Array
from tvmopt.compiler.manifest import OutputError
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

MOST = 0.5
"""The largest relative error allowed: half of the largest magnitude there is."""

LEAST_SQNR_DB = 10.0
"""Noise of 32 % of the signal (root mean square). What has more is no result of this model."""

POOR_SQNR_DB = 20.0
"""Noise of 10 % of the signal."""

_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def rounding_limits(
    imported: "ImportedModel",
    reference: Reference,
    exact: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: str,
) -> dict[str, float]:
    """The largest relative error (see `compare`) of each float output, by name; up to `MOST`.

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
    moved = {name: compare(name, rounded[name], exact[name]).max_rel for name in names}
    return {name: min(MOST, max(LEAST[dtype], FACTOR * by)) for name, by in moved.items()}


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

    The ratio is that of the finite elements. Both are None where they mean nothing: no noise or no
    signal, or no rows `[N, classes]` with at least 10 classes.
    """
    if exact.dtype.kind != "f" or ours.shape != exact.shape or not exact.size:
        return None, None
    a, b = ours.astype(np.float64), exact.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    noise, signal = float(((a[finite] - b[finite]) ** 2).sum()), float((b[finite] ** 2).sum())
    ratio_db = 10 * math.log10(signal / noise) if noise and signal else None
    top_1 = None
    if exact.ndim == 2 and exact.shape[1] >= 10 and finite.all():
        top_1 = float((a.argmax(1) == b.argmax(1)).mean())
    return ratio_db, top_1


def noisiest(errors: Sequence[OutputError]) -> tuple[OutputError, float] | None:
    """The output with the least signal to noise, and that in dB; None if no output has noise."""
    ratios = [(error, error.sqnr_db) for error in errors if error.sqnr_db is not None]
    return min(ratios, key=lambda one: one[1], default=None)
