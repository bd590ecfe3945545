"""Inlines functions: the model's own, and ONNX's definitions of operators without a converter.

ONNX's own inliner does this as well, but not with names of ours: here the nodes of an operator's
definition bear the name of the operator's node, and those of a local function `<call>/<node>`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto, defs

from tvmopt.compiler.importer.constants import take_constants
from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS, Draft, copy_node, label, opset_of
from tvmopt.compiler.importer.infer import infer
from tvmopt.compiler.importer.ops import is_supported
from tvmopt.errors import ModelError

MAX_DEPTH = 32
"""Calls inside calls; ONNX forbids recursion, so a deeper nest is a cycle."""


@dataclass(frozen=True)
class Body:
    """Nodes to put in place of a call, and how their names relate to it."""

    nodes: list[NodeProto]
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, AttributeProto]
    prefix: str
    name_of: Callable[[NodeProto], str]


def inline_local_functions(draft: Draft) -> None:
    """Replaces calls of the functions that the model file defines by their bodies.

    Raises:
        ModelError: recursion, or a body of an operator set that does not fit the model's.
    """
    functions = {(f.domain, f.name, f.overload): f for f in draft.model.functions}
    if functions:
        for function in functions.values():
            _check_opset(function, draft.opset)
        _inline_in(draft, draft.graph, functions, 0)
        del draft.model.functions[:]
    take_constants(draft)


def _inline_in(
    draft: Draft,
    graph: GraphProto,
    functions: Mapping[tuple[str, str, str], FunctionProto],
    depth: int,
) -> None:
    nodes: list[NodeProto] = []
    calls: list[str] = []
    for node in graph.node:
        function = functions.get((node.domain, node.op_type, node.overload))
        if function is None:
            nodes.append(copy_node(node))
            continue
        if depth == MAX_DEPTH:
            raise ModelError(f"{label(node)}: functions call each other in a circle")
        calls.append(node.name)
        nodes += expand(draft, node, _local_body(node, function))
        draft.remark("passed", node.name, f"inlined local function {node.domain}::{node.op_type}")
    for node in nodes:
        for item in node.attribute:
            for inner in [item.g] if item.type == AttributeProto.GRAPH else item.graphs:
                _inline_in(draft, inner, functions, depth)
    del graph.node[:]
    graph.node.extend(nodes)
    if calls:
        _inline_in(draft, graph, functions, depth + 1)


def _local_body(node: NodeProto, function: FunctionProto) -> Body:
    given = {item.name: item for item in node.attribute}
    attributes = {item.name: item for item in function.attribute_proto} | given
    position = {id(inner): index for index, inner in enumerate(function.node)}

    def name_of(inner: NodeProto) -> str:
        return f"{node.name}/{inner.name or f'{inner.op_type}_{position[id(inner)]}'}"

    nodes = list(function.node)
    position = {id(inner): index for index, inner in enumerate(nodes)}
    return Body(nodes, list(function.input), list(function.output), attributes, node.name, name_of)


def _check_opset(function: FunctionProto, opset: int) -> None:
    own = opset_of(function.opset_import) or opset
    if own == opset:
        return
    for node in function.node:
        if node.domain not in DEFAULT_DOMAINS:
            continue
        try:
            here, there = defs.get_schema(node.op_type, opset), defs.get_schema(node.op_type, own)
        except defs.SchemaError:
            continue  # reported as an unknown operator
        if here.since_version != there.since_version and _signature(here) != _signature(there):
            raise ModelError(
                f"local function '{function.name}' uses {node.op_type} of operator set {own}, "
                f"which differs from that of operator set {opset} in the model",
                "export the model and its functions with one operator set",
            )


def _signature(schema: defs.OpSchema) -> tuple[object, ...]:
    attributes = {
        name: item.default_value.SerializeToString() for name, item in schema.attributes.items()
    }
    return schema.min_input, schema.max_input, schema.max_output, attributes


def inline_schema_functions(draft: Draft) -> None:
    """Replaces operators without a converter by their definition in the ONNX standard."""
    for _ in range(MAX_DEPTH):
        chosen = {node.name for node in draft.graph.node if not is_supported(node)}
        if not any(
            _has_definition(node, draft.opset) for node in draft.graph.node if node.name in chosen
        ):
            return
        types = infer(draft)
        nodes: list[NodeProto] = []
        for node in draft.graph.node:
            function = None
            if not is_supported(node):
                known = [
                    types[name].proto() if name in types else TypeProto() for name in node.input
                ]
                function = definition(node, draft.opset, known)
            if function is None:
                nodes.append(copy_node(node))
                continue
            nodes += expand(draft, node, _schema_body(node, function, draft.opset))
            draft.remark("passed", node.name, f"{node.op_type} expanded to its definition in ONNX")
        draft.set_nodes(nodes)
        take_constants(draft)


def _has_definition(node: NodeProto, opset: int) -> bool:
    if node.domain not in DEFAULT_DOMAINS or not defs.has(node.op_type):
        return False
    schema = defs.get_schema(node.op_type, opset)
    return bool(schema.has_function or schema.has_context_dependent_function)


def definition(node: NodeProto, opset: int, types: list[TypeProto]) -> FunctionProto | None:
    """The function that the ONNX standard defines an operator by, or None.

    Args:
        node: a node of the default domain.
        opset: the model's operator set.
        types: types of the node's inputs; some definitions depend on them.
    """
    if not _has_definition(node, opset):
        return None
    schema = defs.get_schema(node.op_type, opset)
    versions = [v for v in schema.function_opset_versions if v <= opset]
    if versions:
        return FunctionProto.FromString(schema.get_function_with_opset_version(max(versions)))
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if not versions:
        return None
    data = schema.get_context_dependent_function_with_opset_version(
        max(versions), node.SerializeToString(), [item.SerializeToString() for item in types]
    )
    return FunctionProto.FromString(data) if data else None


def _schema_body(node: NodeProto, function: FunctionProto, opset: int) -> Body:
    schema = defs.get_schema(node.op_type, opset)
    attributes = {
        name: item.default_value
        for name, item in schema.attributes.items()
        if item.default_value.name
    }
    attributes |= {item.name: item for item in function.attribute_proto}
    attributes |= {item.name: item for item in node.attribute}
    return Body(
        list(function.node),
        list(function.input),
        list(function.output),
        attributes,
        node.name,
        lambda _inner: node.name,
    )


def expand(draft: Draft, call: NodeProto, body: Body) -> list[NodeProto]:
    """The nodes of `body` with the call's tensors, attributes and names in place."""
    names: dict[str, str] = {"": ""}
    for index, formal in enumerate(body.inputs):
        names[formal] = call.input[index] if index < len(call.input) else ""
    passed: list[tuple[str, str]] = []
    for index, formal in enumerate(body.outputs):
        actual = call.output[index] if index < len(call.output) else ""
        if formal in body.inputs:  # an output that is an input needs a node between
            passed.append((names[formal], actual))
        elif actual:
            names[formal] = actual
    nodes: list[NodeProto] = []
    for inner in body.nodes:
        node = copy_node(inner)
        node.name = body.name_of(inner)
        _resolve_attributes(node, body.attributes)
        rename_tensors(draft, node, names, body.prefix)
        nodes.append(node)
    for source, target in passed:
        if target:
            nodes.append(
                NodeProto(op_type="Identity", name=call.name, input=[source], output=[target])
            )
    return nodes


def rename_tensors(draft: Draft, node: NodeProto, names: dict[str, str], prefix: str) -> None:
    """Gives the tensors of an inlined node, and of graphs inside it, names of their own.

    `names` maps old to new; tensors that the node defines are added to it.
    """
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for item in node.attribute:
        for graph in [item.g] if item.type == AttributeProto.GRAPH else item.graphs:
            inner = dict(names)
            for value in [*graph.input, *graph.initializer]:
                inner[value.name] = draft.fresh(f"{prefix}/{value.name}")
                value.name = inner[value.name]
            for nested in graph.node:
                rename_tensors(draft, nested, inner, prefix)
            for value in graph.output:
                value.name = inner.get(value.name, value.name)
    for index, name in enumerate(node.output):
        if name not in names:
            names[name] = draft.fresh(f"{prefix}/{name}")
        node.output[index] = names[name]


def _resolve_attributes(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> None:
    kept: list[AttributeProto] = []
    for item in node.attribute:
        if item.ref_attr_name:
            if item.ref_attr_name not in attributes:
                continue  # an optional attribute that the call does not give
            value = AttributeProto()
            value.CopyFrom(attributes[item.ref_attr_name])
            value.name = item.name
            item = value
        for graph in [item.g] if item.type == AttributeProto.GRAPH else item.graphs:
            for inner in graph.node:
                _resolve_attributes(inner, attributes)
        kept.append(item)
    copies = [AttributeProto.FromString(item.SerializeToString()) for item in kept]
    del node.attribute[:]
    node.attribute.extend(copies)
