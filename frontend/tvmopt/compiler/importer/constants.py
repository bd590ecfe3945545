"""Turns `Constant` nodes of every form into named values."""

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS, Draft, label
from tvmopt.errors import ModelError

_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def take_constants(draft: Draft) -> bool:
    """Moves the values of the graph's `Constant` nodes to `draft.constants`.

    Returns:
        Whether there was any.
    """
    others: list[NodeProto] = []
    for node in draft.graph.node:
        if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
            draft.constants[node.output[0]] = constant_value(node)
        else:
            others.append(node)
    found = len(others) != len(draft.graph.node)
    if found:
        draft.set_nodes(others)
    return found


def constant_value(node: NodeProto) -> np.ndarray:
    """The value of a `Constant` node.

    Raises:
        ModelError: it is a string or sparse.
    """
    for item in node.attribute:
        if item.name == "value":
            return numpy_helper.to_array(item.t)
        if item.name in _DTYPES:
            return np.asarray(helper.get_attribute_value(item), _DTYPES[item.name])
    kinds = ", ".join(item.name for item in node.attribute) or "no value"
    raise ModelError(f"{label(node)}: constants with {kinds} are not supported")
