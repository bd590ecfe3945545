"""The model while it is being prepared: a light ONNX graph beside its constants."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, helper

from tvmopt.report import Remark, RemarkKind

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass
class Draft:
    """An ONNX model whose constants are kept apart from its graph.

    The graph has no initializers and no `Constant` nodes: their values are in `constants`, which
    keeps the proto small (shape inference copies it several times) and weights uncopied.

    Attributes:
        model: the graph; `model.graph.input` are the model's own inputs only.
        constants: initializers and other values known at compile time, by tensor name.
        remarks: what was changed or noticed so far.
    """

    model: ModelProto
    constants: dict[str, np.ndarray]
    remarks: list[Remark] = field(default_factory=list[Remark])
    _taken: set[str] = field(default_factory=set[str])

    @property
    def graph(self) -> GraphProto:
        """The model's main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return opset_of(self.model.opset_import)

    def remark(self, kind: RemarkKind, node: str, message: str) -> None:
        """Records something the user may want to know."""
        self.remarks.append(Remark(kind, "import", node, message))

    def set_nodes(self, nodes: list[NodeProto]) -> None:
        """Replaces the graph's nodes."""
        kept = [copy_node(node) for node in nodes]  # they may be parts of what is deleted
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def fresh(self, name: str) -> str:
        """A tensor name that nothing had before, near to `name`."""
        if not self._taken:
            self._taken |= {*self.constants, *(value.name for value in self.graph.input)}
            self._taken |= _defined_names(self.graph.node) | used_names(self.graph.node)
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate


def opset_of(imports: Iterable[OperatorSetIdProto]) -> int:
    """Version of the default operator set in a list of imports; 0 when it is not there."""
    versions = [item.version for item in imports if item.domain in DEFAULT_DOMAINS]
    return max(versions, default=0)


def copy_node(node: NodeProto) -> NodeProto:
    """A node of its own, not part of any graph."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def subgraphs(node: NodeProto) -> list[tuple[str, GraphProto]]:
    """The graphs that a node holds, with the names of their attributes."""
    found: list[tuple[str, GraphProto]] = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append((attribute.name, attribute.g))
        elif attribute.type == AttributeProto.GRAPHS:
            found += [(attribute.name, graph) for graph in attribute.graphs]
    return found


def used_names(nodes: Iterable[NodeProto]) -> set[str]:
    """All tensors that nodes, or the graphs inside them, read."""
    names: set[str] = set()
    for node in nodes:
        names.update(name for name in node.input if name)
        for _, graph in subgraphs(node):
            names |= used_names(graph.node)
            names.update(value.name for value in graph.output)
    return names


def _defined_names(nodes: Iterable[NodeProto]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        names.update(node.output)
        for _, graph in subgraphs(node):
            names |= _defined_names(graph.node)
    return names


def label(node: NodeProto) -> str:
    """How a node is called in messages: `node 'conv1' (Conv)`."""
    domain = "" if node.domain in DEFAULT_DOMAINS else f"{node.domain}::"
    return f"node '{node.name}' ({domain}{node.op_type})"


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value; strings are decoded."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return default
