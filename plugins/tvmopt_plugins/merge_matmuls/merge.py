"""Finds matmuls of one input, and makes one of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.rewriting import (
    Graph,
    Rewrite,
    constant_value,
    dtype_of,
    is_op,
    join_names,
    shape_of,
)

if TYPE_CHECKING:
    from tvmopt_plugins.merge_matmuls import MergeParallelMatmuls


@dataclass(frozen=True)
class Member:
    """One matmul of a group, with the bias that is added to its result if there is one."""

    name: str
    weight: relax.Expr
    bias: relax.Expr | None

    @property
    def width(self) -> int:
        """Columns of the weight."""
        return (shape_of(self.weight) or (0,))[-1]


def find_groups(
    mod: tvm.IRModule, source: "MergeParallelMatmuls", ctx: CompileContext
) -> list[list[Member]]:
    """Matmuls `[..., K] @ [K, N]` with constant weights that read one tensor, two or more each."""
    func: Any = mod["main"]
    groups: list[list[Member]] = []
    for block in func.body.blocks:
        by_input: dict[relax.Expr, list[Member]] = {}
        bindings: list[Any] = list(block.bindings)
        readers = _readers(func)
        weights = Counter(b.value.args[1] for b in bindings if is_op(b.value, "relax.matmul"))
        for binding in bindings:
            product: Any = binding.value
            # A weight that serves two inputs would not tell its matmuls apart.
            if _has_flat_weight(product) and weights[product.args[1]] == 1:
                member = _member(binding.var, product, readers)
                by_input.setdefault(product.args[0], []).append(member)
        for data, members in by_input.items():
            narrow = [m for m in members if not 0 < source.max_width < m.width]
            if len(members) > 1 and len(narrow) < len(members):
                names = ", ".join(m.name for m in members if m not in narrow)
                why = f"matmuls of one input, but {names}: more than {source.max_width} columns"
                ctx.missed(source, getattr(data, "name", ""), why)
            if len(narrow) > 1:
                groups.append(narrow)
    return groups


def merge_groups(groups: Sequence[Sequence[Member]]) -> Rewrite:
    """`x @ w1 + b1, x @ w2 + b2 = slices of x @ [w1 | w2] + [b1 | b2]`; exact.

    A matmul without a bias gets one of zeros when another of its group has one.

    Args:
        groups: matmuls of one input each, in the order in which they are computed.
    """
    group_of = {member.weight: group for group in groups for member in group}
    pieces: dict[relax.Expr, relax.Expr] = {}

    def merge(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if is_op(value, "relax.matmul") and value.args[1] in group_of:
            weight = value.args[1]
            group = group_of[weight]
            if weight not in pieces:
                pieces.update(_emit(value.args[0], group, graph))
            has_bias = any(m.bias is not None for m in group if m.weight.same_as(weight))
            return None if has_bias else pieces[weight]
        if is_op(value, "relax.add"):
            product = graph.producer(value.args[0])
            if is_op(product, "relax.matmul") and product.args[1] in pieces:
                return pieces[product.args[1]]
        return None

    return merge


def _emit(data: relax.Expr, group: Sequence[Member], graph: Graph) -> dict[relax.Expr, relax.Expr]:
    """Emits the common matmul; returns each member's slice by its weight."""
    name = join_names(*(member.name for member in group))
    weights = [_array(member.weight) for member in group]
    dtype = dtype_of(group[0].weight)
    merged = relax.op.matmul(data, relax.const(np.concatenate(weights, axis=1), dtype))
    result = graph.emit(merged, name)
    if any(member.bias is not None for member in group):
        biases = [
            np.zeros(m.width, dtype) if m.bias is None else _array(m.bias).reshape(-1)
            for m in group
        ]
        bias = relax.const(np.concatenate(biases), dtype)
        result = graph.emit(relax.op.add(result, bias), name)
    graph.passed(f"{len(group)} matmuls of one input became one: {name}")
    pieces: dict[relax.Expr, relax.Expr] = {}
    axis, begin = len(shape_of(result) or ()) - 1, 0
    for member in group:
        end = begin + member.width
        piece = relax.op.strided_slice(result, [axis], [begin], [end], [1])
        pieces[member.weight] = graph.emit(piece, member.name)
        begin = end
    return pieces


def _member(
    var: relax.Var, product: relax.Call, readers: dict[relax.Var, list[relax.Expr]]
) -> Member:
    weight = product.args[1]
    users = readers.get(var, [])
    if len(users) == 1 and is_op(users[0], "relax.add") and users[0].args[0].same_as(var):
        bias = users[0].args[1]
        shape = shape_of(bias)
        width = (shape_of(weight) or (0,))[-1]
        flat = shape is not None and shape[-1:] == (width,) and all(n == 1 for n in shape[:-1])
        if constant_value(bias) is not None and flat and shape_of(users[0]) == shape_of(product):
            return Member(var.name, weight, bias)
    return Member(var.name, weight, None)


def _has_flat_weight(value: relax.Expr) -> bool:
    if not is_op(value, "relax.matmul") or not isinstance(value.args[0], relax.Var):
        return False
    is_flat = len(shape_of(value.args[1]) or ()) == 2 and len(shape_of(value) or ()) >= 2
    return is_flat and constant_value(value.args[1]) is not None


def _readers(func: Any) -> dict[relax.Var, list[relax.Expr]]:
    """What reads each variable; the function itself stands for its result."""
    readers: dict[relax.Var, list[relax.Expr]] = {}
    for block in func.body.blocks:
        for binding in block.bindings:
            for var in relax.analysis.free_vars(binding.value):
                readers.setdefault(var, []).append(binding.value)
    for var in relax.analysis.free_vars(func.body.body):
        readers.setdefault(var, []).append(func)
    return readers


def _array(constant: relax.Expr) -> np.ndarray[Any, Any]:
    array = constant_value(constant)
    assert array is not None
    return array
