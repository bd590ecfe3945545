"""Replaces `If` by the branch that is taken, or by both and a choice between their results."""

from onnx import GraphProto, NodeProto, helper, numpy_helper

from tvmopt.compiler.importer.constants import take_constants
from tvmopt.compiler.importer.draft import Draft, attribute, copy_node, label
from tvmopt.compiler.importer.functions import rename_tensors
from tvmopt.errors import ModelError


def resolve_branches(draft: Draft) -> bool:
    """Inlines the `If` nodes of the graph, one level deep.

    A branch has no side effects, so computing both and choosing with `Where` is exact; it costs
    the time of both.

    Returns:
        Whether there was any; what came out of it may hold more.

    Raises:
        ModelError: a branch whose initializer cannot be read.
    """
    nodes: list[NodeProto] = []
    found = False
    for node in draft.graph.node:
        if node.op_type != "If":
            nodes.append(copy_node(node))
            continue
        found = True
        nodes += _inline_if(draft, node)
    if found:
        draft.set_nodes(nodes)
        take_constants(draft)
    return found


def _inline_if(draft: Draft, node: NodeProto) -> list[NodeProto]:
    branches = [attribute(node, name) for name in ("then_branch", "else_branch")]
    then_branch, else_branch = branches
    assert isinstance(then_branch, GraphProto)
    assert isinstance(else_branch, GraphProto)
    condition = draft.constants.get(node.input[0])
    if condition is not None:
        if condition.size != 1:
            raise ModelError(f"{label(node)}: its condition has {condition.size} elements, not one")
        taken, name = (then_branch, "then") if condition.item() else (else_branch, "else")
        draft.remark("passed", node.name, f"the condition is constant; only {name} is compiled")
        return _splice(draft, node, taken, name, list(node.output))
    draft.remark("analysis", node.name, "both branches are computed, since either may be taken")
    nodes: list[NodeProto] = []
    chosen: list[list[str]] = []
    for name, graph in (("then", then_branch), ("else", else_branch)):
        outputs = [draft.fresh(f"{node.name}/{name}/{output}") for output in node.output]
        nodes += _splice(draft, node, graph, name, outputs)
        chosen.append(outputs)
    for output, yes, no in zip(node.output, *chosen, strict=True):
        nodes.append(helper.make_node("Where", [node.input[0], yes, no], [output], name=node.name))
    return nodes


def _splice(
    draft: Draft, node: NodeProto, graph: GraphProto, branch: str, outputs: list[str]
) -> list[NodeProto]:
    """The branch's nodes in the outer graph, its results under the names `outputs`."""
    prefix = f"{node.name}/{branch}"
    names = {"": ""}
    for tensor in graph.initializer:
        names[tensor.name] = draft.fresh(f"{prefix}/{tensor.name}")
        draft.constants[names[tensor.name]] = numpy_helper.to_array(tensor)
    nodes: list[NodeProto] = []
    for index, inner in enumerate(graph.node):
        copy = copy_node(inner)
        copy.name = inner.name or f"{prefix}/{inner.op_type}_{index}"
        rename_tensors(draft, copy, names, prefix)
        nodes.append(copy)
    for value, output in zip(graph.output, outputs, strict=True):
        source = names.get(value.name, value.name)
        nodes.append(helper.make_node("Identity", [source], [output], name=node.name))
    return nodes
