"""`tvmopt inspect MODEL --capability`: which operators compile, and what stands in the way."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from onnx import defs

from tvmopt.cli.console import print_json, print_table
from tvmopt.compiler.importer import import_model
from tvmopt.compiler.importer.check import check_opset
from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS, subgraphs
from tvmopt.compiler.importer.functions import inline_local_functions
from tvmopt.compiler.importer.names import name_nodes
from tvmopt.compiler.importer.ops import CONVERTERS, REFUSED, is_supported
from tvmopt.compiler.importer.read import read_draft
from tvmopt.errors import TvmoptError
from tvmopt.model import ModelSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, NodeProto

_SHOWN = 3
"""Node names in the table."""


@dataclass
class OpCapability:
    """What becomes of one operator of a model; `how` is empty if it cannot be compiled."""

    operator: str
    how: str
    why_not: str
    nodes: list[str] = field(default_factory=list[str])


def inspect_capability(source: ModelSource, *, as_json: bool) -> int:
    """Prints how each operator compiles and whether the whole model does; returns the exit code."""
    rows = list(capabilities(source.path).values())
    problem: TvmoptError | None = None
    try:
        import_model(source)
    except TvmoptError as error:
        problem = error
        rows = [part for row in rows for part in _split(row, str(error))]
        rows.sort(key=lambda row: bool(row.how))  # what cannot be compiled first
    else:
        for row in rows:
            row.how = row.how or "computed ahead of time"
            row.why_not = ""
    if as_json:
        print_json(
            {
                "model": str(source.path),
                "imports": problem is None,
                "error": str(problem) if problem else None,
                "hint": problem.hint if problem else None,
                "operators": [asdict(row) for row in rows],
            }
        )
    else:
        table = [(r.operator, len(r.nodes), r.how or "NO", r.why_not, _some(r)) for r in rows]
        columns = ("operator", "nodes", "compiles", "why not", "such as")
        print_table("operators", columns, table, ("nodes",))
        if problem is None:
            click.echo("the model imports as it is")
    if problem is not None:
        if not as_json:
            raise problem
        return problem.exit_code
    return 0


def _split(row: OpCapability, error: str) -> list[OpCapability]:
    """Tells the nodes that the import's error names from the others of their operator."""
    if not row.how:
        return [row]
    named = [name for name in row.nodes if f"node '{name}' ({row.operator})" in error]
    if not named:
        return [row]
    why_not = error.partition(f"node '{named[0]}' ({row.operator})")[2].lstrip(": ")
    refused = OpCapability(row.operator, "", why_not, named)
    others = [name for name in row.nodes if name not in named]
    return [refused, *([replace(row, nodes=others)] if others else [])]


def capabilities(path: Path) -> dict[str, OpCapability]:
    """What becomes of each operator, those that cannot be compiled first.

    Raises:
        ModelError: the file cannot be read, or its operator set is out of range.
    """
    draft = read_draft(path)
    check_opset(draft)
    name_nodes(draft.graph)
    inline_local_functions(draft)
    found: dict[str, OpCapability] = {}
    for node in _all_nodes(draft.graph):
        name = node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
        if name not in found:
            found[name] = OpCapability(name, *_verdict(node, draft.opset))
        found[name].nodes.append(node.name)
    return dict(sorted(found.items(), key=lambda item: (bool(item[1].how), item[0])))


def _verdict(node: "NodeProto", opset: int) -> tuple[str, str]:
    if node.domain not in DEFAULT_DOMAINS:
        return "", "custom domain"
    try:
        schema: Any = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return "", f"operator set {opset} has no such operator"
    if is_supported(node):
        return ("by tvmopt" if node.op_type in CONVERTERS else "by TVM's converter"), ""
    if schema.has_function or schema.has_context_dependent_function:
        return "by ONNX's definition", ""
    if subgraphs(node):
        return "", "only where its condition is known at compile time"
    return "", REFUSED.get(node.op_type, "no converter")


def _all_nodes(graph: "GraphProto") -> "Iterator[NodeProto]":
    for node in graph.node:
        yield node
        for _, inner in subgraphs(node):
            yield from _all_nodes(inner)


def _some(row: OpCapability) -> str:
    more = ", ..." if len(row.nodes) > _SHOWN else ""
    return ", ".join(row.nodes[:_SHOWN]) + more
