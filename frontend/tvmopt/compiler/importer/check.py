"""Refuses what cannot be imported correctly, before anything is done, naming every node."""

from collections import defaultdict

import onnx
from onnx import GraphProto, NodeProto, defs

from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS, Draft, opset_of, subgraphs
from tvmopt.compiler.importer.infer import with_constants
from tvmopt.compiler.importer.ops import REFUSED, is_supported
from tvmopt.compiler.importer.quantized import is_quantized
from tvmopt.errors import ModelError

OLDEST_OPSET = 6
"""Below 6, operators broadcast and infer shapes by rules of their own."""

NAMED = 4
"""Nodes that an error names for one operator."""


def check_opset(draft: Draft) -> None:
    """Refuses operator sets of the default domain that are too old, too new or not stated.

    Raises:
        ModelError: with the versions that are supported.
    """
    newest = defs.onnx_opset_version()
    version = opset_of(draft.model.opset_import)
    supported = f"operator sets {OLDEST_OPSET} to {newest} are supported"
    if not version:
        raise ModelError("the model states no operator set of the domain ai.onnx", supported)
    if version > newest:
        raise ModelError(
            f"the model uses operator set {version}; {supported}",
            "export it with an older opset_version, or update the package onnx",
        )
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model uses operator set {version}; {supported}",
            "convert it with onnx.version_converter.convert_version(model, 13)",
        )


def check_graph(draft: Draft) -> None:
    """Refuses operators of other domains and ones that do not exist, also in inner graphs.

    Raises:
        ModelError: lists each of them with the names of its nodes.
    """
    domains: dict[str, list[str]] = defaultdict(list)
    unknown: dict[str, list[str]] = defaultdict(list)
    for node in _all_nodes(draft.graph, ""):
        if is_quantized(node):
            continue
        if node.domain not in DEFAULT_DOMAINS:
            domains[f"{node.domain}::{node.op_type}"].append(node.name)
        elif not _exists(node.op_type, draft.opset):
            unknown[node.op_type].append(node.name)
    if domains:
        raise ModelError(
            f"operators of custom domains are not supported: {_list(domains)}",
            "export with standard operators (domain ai.onnx), without runtime-specific fusion",
        )
    if unknown:
        raise ModelError(
            f"operator set {draft.opset} of ai.onnx has no such operators: {_list(unknown)}"
        )
    _check_values(draft.graph)


def check_supported(draft: Draft) -> None:
    """Refuses operators that are left after folding and inlining and have no converter.

    Raises:
        ModelError: lists each of them with the names of its nodes, and why where it is known.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for node in draft.graph.node:
        if not is_supported(node):
            found[node.op_type].append(node.name)
    if found:
        reasons = [f"{kind}: {REFUSED[kind]}" for kind in sorted(found) if kind in REFUSED]
        raise ModelError(
            f"operators that tvmopt does not support: {_list(found)}", "; ".join(reasons) or None
        )


def check_valid(draft: Draft) -> None:
    """Runs ONNX's checker on the graph.

    Raises:
        ModelError: with what the checker says.
    """
    model = with_constants(draft)
    for value in model.graph.output:  # the checker insists on a shape, which need not be known yet
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        raise ModelError(f"not a valid ONNX model: {' '.join(lines[:2])}") from None


def _check_values(graph: GraphProto) -> None:
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            held = value.type.WhichOneof("value")
            if held != "tensor_type" and (held or kind == "input"):
                name = (held or "unknown type").removesuffix("_type").replace("_", " ")
                raise ModelError(f"{kind} '{value.name}' is no tensor but a {name}")
            if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                raise ModelError(f"{kind} '{value.name}' holds strings, which are not supported")


def _all_nodes(graph: GraphProto, owner: str) -> list[NodeProto]:
    """The graph's nodes and those of graphs inside them; inner ones are named `<outer>/<inner>`."""
    nodes: list[NodeProto] = []
    for index, node in enumerate(graph.node):
        if owner:
            node.name = f"{owner}/{node.name or f'{node.op_type}_{index}'}"
        nodes.append(node)
        for _, inner in subgraphs(node):
            nodes += _all_nodes(inner, node.name)
    return nodes


def _exists(op_type: str, opset: int) -> bool:
    try:
        return not defs.get_schema(op_type, opset).deprecated
    except defs.SchemaError:
        return False


def _list(found: dict[str, list[str]]) -> str:
    parts: list[str] = []
    for kind in sorted(found):
        names = found[kind]
        shown = ", ".join(f"'{name}'" for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts.append(f"{kind} (node{'s' if len(names) > 1 else ''} {shown}{more})")
    return "; ".join(parts)
