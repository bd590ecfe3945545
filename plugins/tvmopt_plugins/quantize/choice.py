"""Which products are quantized, which tensors between them, and why others are not."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tvm import relax

from tvmopt import CompileContext
from tvmopt.rewriting import attrs_of, dtype_of, is_op, shape_of
from tvmopt_plugins.quantize.network import (
    BETWEEN,
    NORMALIZATIONS,
    PRODUCTS,
    SAME_VALUES,
    Network,
    weight_of,
)

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import AnnotateQuantization

_ON_PURPOSE = {
    "relax.nn.softmax": "its results crowd near zero, where 8-bit steps are too wide",
    "relax.nn.log_softmax": "its results span decades, 8-bit steps do not",
    **dict.fromkeys(NORMALIZATIONS, "it divides by a deviation that rounding would change"),
    "relax.nn.gelu": "it is computed in the kernel before it, without a rounding in between",
    "relax.nn.attention": "its products have no constant operand: ranges vary with each input",
}
_OTHER_PRODUCTS = {
    "relax.nn.conv1d": "there is no integer kernel for it",
    "relax.nn.conv3d": "there is no integer kernel for it",
    "relax.nn.conv2d_transpose": "there is no integer kernel for it",
}


@dataclass
class Choice:
    """What is quantized.

    Attributes:
        products: convolutions and matrix products.
        tensors: activations that get a pair of quantize and dequantize.
        produced: those of them that an integer kernel makes.
        between: operators between products that compute with integers.
        floats: why what was considered and is not quantized stays float32.
    """

    products: list[relax.Var]
    tensors: set[relax.Var]
    produced: set[relax.Var]
    between: set[relax.Var]
    floats: dict[relax.Var, str]


def choose(network: Network, source: "AnnotateQuantization", ctx: CompileContext) -> Choice:
    """Decides, and tells in remarks why what stays float32 does."""
    products, floats = _products(network, source, ctx)
    with_between = _with_between(network, source, ctx)
    # Forwards: what integers could be handed on to. Backwards: where somebody wants them.
    ends = {network.end_of(var) for var in products}
    between: dict[relax.Var, relax.Var] = {}
    for var, value in network.values.items():
        operands = network.operands(var)
        fits = is_op(value, *BETWEEN) or network.is_part(var)
        if not with_between or not fits or not operands:
            continue
        if kept_by(network, var, source) or ctx.why_float(var.name):
            continue
        if all(one in ends for one in operands):
            between[var] = network.end_of(var)
            ends.add(between[var])
    tensors = {network.values[var].args[0] for var in products}
    integers: set[relax.Var] = set()
    for var in reversed(between):
        if between[var] in tensors:
            tensors.update(network.operands(var) or [])
            if not is_op(network.values[var], *SAME_VALUES) and not network.is_part(var):
                integers.add(var)
    produced = {network.end_of(var) for var in products}
    produced |= set(between.values())
    return Choice(products, tensors, produced & tensors, integers, floats)


def _products(
    network: Network, source: "AnnotateQuantization", ctx: CompileContext
) -> tuple[list[relax.Var], dict[relax.Var, str]]:
    """Those that are quantized, and why others, and what else was considered, are not."""
    found = network.nodes(*PRODUCTS)
    kept = {found[0]: "keep-first"} if found and source.keep_first else {}
    kept |= {found[-1]: "keep-last"} if found and source.keep_last else {}
    chosen: list[relax.Var] = []
    floats: dict[relax.Var, str] = {}
    for var in found:
        why = f"asked for by {kept[var]}" if var in kept else kept_by(network, var, source)
        why = why or _obstacle(network, network.values[var], source) or ctx.why_float(var.name)
        if why:
            floats[var] = why
        else:
            chosen.append(var)
    reasons = {**_ON_PURPOSE, **_OTHER_PRODUCTS}
    for var in network.nodes(*reasons):
        floats[var] = reasons[network.values[var].op.name]
    for var, why in floats.items():
        ctx.missed(source, var.name, f"stays float32: {why}")
    for pattern in _patterns(source):
        if not any(_matches(pattern, var.name, network.values[var]) for var in network.values):
            ctx.missed(source, "", f"exclude={pattern} names nothing in the model")
    return chosen, floats


def _with_between(network: Network, source: "AnnotateQuantization", ctx: CompileContext) -> bool:
    if source.between != "auto":
        return source.between == "int8"
    normalizations = network.nodes(*NORMALIZATIONS)
    if normalizations:
        message = "the model normalizes layers: what lies between its products stays float32"
        ctx.found(source, "", message)
    return not normalizations


def kept_by(network: Network, var: relax.Var, source: "AnnotateQuantization") -> str:
    """Which exclusion of the user's names a node; empty where none does."""
    for pattern in _patterns(source):
        if _matches(pattern, var.name, network.values[var]):
            return f"asked for by exclude={pattern}"
    return ""


def _patterns(source: "AnnotateQuantization") -> list[str]:
    return [one for one in source.exclude.split("|") if one]


def _matches(pattern: str, name: str, value: relax.Expr) -> bool:
    if pattern.startswith("op:"):
        op = str(getattr(getattr(value, "op", None), "name", ""))
        return op.rpartition(".")[2] == pattern.removeprefix("op:")
    nodes = name.split("|")
    if pattern.startswith("re:"):
        return any(re.search(pattern.removeprefix("re:"), node) for node in nodes)
    return any(fnmatchcase(node, pattern) for node in nodes)


def _obstacle(network: Network, value: Any, source: "AnnotateQuantization") -> str:
    """Why a product is not quantized; empty where it is."""
    left, right = value.args
    if is_op(network.values.get(left), "relax.dequantize"):
        return "the model is quantized here already"
    if {dtype_of(left), dtype_of(right), dtype_of(value)} != {"float32"}:
        return "it is no product of float32"
    if not isinstance(left, relax.Var):
        return "its activation is a constant"
    weight = weight_of(value)
    if weight is None:
        return "it has no constant weight: ranges of both operands vary with each input"
    if is_op(value, "relax.matmul") and weight.ndim != 2:
        return "its weight is a stack of matrices"
    if is_op(value, "relax.nn.conv2d") and attrs_of(value).kernel_layout != "OIHW":
        return "its weight has been laid out already"
    if shape_of(value) is None or not weight.size:
        return "its shape is not static, or empty"
    if weight.size < source.min_weights:
        return f"its weight has {weight.size} elements, min-weights={source.min_weights}"
    return ""
