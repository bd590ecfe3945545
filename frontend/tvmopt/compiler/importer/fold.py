"""Computes at import what depends on constants and static shapes only."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator

from tvmopt.compiler.importer.draft import Draft, attribute, copy_node, subgraphs, used_names
from tvmopt.compiler.importer.infer import Types, infer

MAX_GROWTH = 16 * 2**20
"""Bytes that folding one node may add; a larger result is cheaper to compute than to store."""

NOT_FOLDED = frozenset(
    {
        # quantized weights stay quantized
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        # random
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

Fold = Callable[[NodeProto, list[np.ndarray | None]], list[np.ndarray]]


def fold(draft: Draft) -> Types:
    """Folds constant nodes until nothing changes and returns the types of what is left.

    Weights are not copied where the operation only renames or reshapes them.
    """
    folded: list[str] = []
    while True:
        types = infer(draft)
        names = _fold_once(draft, types)
        folded += names
        if not names:
            break
    _drop_unused(draft)
    for name in dict.fromkeys(folded):
        draft.remark("passed", name, "folded into a constant")
    return types


def _fold_once(draft: Draft, types: Types) -> list[str]:
    kept: list[NodeProto] = []
    folded: list[str] = []
    for node in draft.graph.node:
        values = _shape_values(node, types)
        if values is None:
            values = _cast_like(node, draft, types)
        if values is None:
            values = _values(node, draft)
        if values is None:
            kept.append(copy_node(node))
            continue
        folded.append(node.name)
        draft.constants.update(
            {name: value for name, value in zip(node.output, values, strict=False) if name}
        )
    if folded:
        draft.set_nodes(kept)
        _drop_unused(draft)
    return folded


def _drop_unused(draft: Draft) -> None:
    used = used_names(draft.graph.node) | {value.name for value in draft.graph.output}
    for name in [name for name in draft.constants if name not in used]:
        del draft.constants[name]


def _shape_values(node: NodeProto, types: Types) -> list[np.ndarray] | None:
    """`Shape` and `Size` of a tensor whose shape is static, whatever its value."""
    if node.op_type not in ("Shape", "Size") or node.input[0] not in types:
        return None
    shape = types[node.input[0]].shape
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(int(np.prod(shape, dtype=np.int64)), np.int64)]
    start, end = attribute(node, "start", 0), attribute(node, "end")
    return [np.array(shape[start:end], np.int64)]


def _cast_like(node: NodeProto, draft: Draft, types: Types) -> list[np.ndarray] | None:
    """A constant in the type of another tensor, whatever that one's value."""
    if node.op_type != "CastLike" or node.input[0] not in draft.constants:
        return None
    if node.input[1] not in types:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(types[node.input[1]].elem_type)
    return [draft.constants[node.input[0]].astype(dtype)]


def _values(node: NodeProto, draft: Draft) -> list[np.ndarray] | None:
    if node.op_type in NOT_FOLDED or subgraphs(node):
        return None
    if not all(name in draft.constants for name in node.input if name):
        return None
    inputs = [draft.constants[name] if name else None for name in node.input]
    size = sum(value.nbytes for value in inputs if value is not None)
    compute = _VIEWS.get(node.op_type)
    if compute is None and size > MAX_GROWTH and node.op_type not in _MOVES:
        return None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = compute(node, inputs) if compute else _evaluate(node, draft, inputs)
    except Exception:  # noqa: BLE001 - what the reference cannot do is left to the converters
        return None
    if any(value.dtype.kind in "OUS" for value in values):
        return None
    grown = sum(value.nbytes for value in values if value.base is None) - size
    return values if grown <= MAX_GROWTH else None


def _evaluate(node: NodeProto, draft: Draft, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    graph = GraphProto(name="fold", node=[node])
    names = dict.fromkeys(name for name in node.input if name)
    graph.input.extend(ValueInfoProto(name=name) for name in names)
    outputs = [name for name in node.output if name]
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    model = ModelProto(ir_version=draft.model.ir_version, graph=graph)
    model.opset_import.extend(draft.model.opset_import)
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    results = ReferenceEvaluator(model).run(None, feeds)
    found = dict(zip(outputs, results, strict=True))
    empty = np.zeros(0, np.float32)
    return [_as_array(found[name]) if name else empty for name in node.output]


def _as_array(value: object) -> np.ndarray:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    raise TypeError(f"not a tensor but {type(value).__name__}")


def _identity(_node: NodeProto, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    return [_given(inputs[0])]


def _reshape(node: NodeProto, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    data = _given(inputs[0])
    wanted = [int(size) for size in _given(inputs[1])]
    if not attribute(node, "allowzero", 0):
        wanted = [data.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return [data.reshape(wanted)]


def _transpose(node: NodeProto, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    order = attribute(node, "perm")
    return [np.ascontiguousarray(np.transpose(_given(inputs[0]), order))]


def _given(value: np.ndarray | None) -> np.ndarray:
    if value is None:
        raise TypeError("a required input is missing")
    return value


_VIEWS: Mapping[str, Fold] = {
    "Identity": _identity,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
"""Folded here rather than by the reference evaluator, so that large weights are not copied."""

_MOVES = frozenset({"Cast", "Concat", "QuantizeLinear", "Slice", "Split", "Squeeze", "Unsqueeze"})
"""Folded at any size: the result is no larger than the inputs, or half of them goes away."""
