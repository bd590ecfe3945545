"""Gives every ONNX node a name of its own, the same in all reports and errors."""

from collections.abc import Mapping

from onnx import GraphProto


def name_nodes(graph: GraphProto) -> Mapping[str, str]:
    """Names unnamed nodes `<OpType>_<index>` and tells apart nodes that share a name.

    Returns:
        The first output tensor of each node, by node name.
    """
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    outputs: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        wanted = node.name or f"{node.op_type}_{index}"
        name, count = wanted, 1
        while name in seen or (name in taken and name != node.name):
            count += 1
            name = f"{wanted}_{count}"
        node.name = name
        seen.add(name)
        outputs[name] = next((output for output in node.output if output), "")
    return outputs
