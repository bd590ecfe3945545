"""Which operands are rounded: those of convolutions and matmuls with enough work to gain."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant_value,
    dtype_of,
    is_op,
    rebuild,
    shape_of,
    stored_form,
)

if TYPE_CHECKING:
    from tvmopt_plugins.mixed_precision import MixedPrecision

_PRODUCTS = ("relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul")
_DOT_FEATURE = "avx512bf16"


def round_operands(
    mod: tvm.IRModule, source: "MixedPrecision", ctx: CompileContext
) -> tvm.IRModule:
    """Puts the rounding in front of the products of `main`."""
    if source.dtype == "bfloat16" and _DOT_FEATURE not in ctx.request.backend.capabilities.features:
        ctx.missed(
            source,
            "",
            "the target has no AVX512-BF16: numbers are stored in bfloat16 and multiplied in "
            "float32, which gains where memory is the limit only",
        )
    kept = _Kept(mod, source)
    rounded: dict[relax.Expr, relax.Expr] = {}

    def operand(expr: relax.Expr, graph: Graph) -> relax.Expr:
        if source.dtype == "float16" and _constant(expr, graph) is None:
            return expr
        if expr not in rounded or graph.variable(graph.producer(rounded[expr])) is None:  # pyright: ignore[reportArgumentType]
            name = expr.name if isinstance(expr, relax.Var) else None
            narrow = graph.emit(relax.op.astype(expr, source.dtype), name)
            rounded[expr] = graph.emit(relax.op.astype(narrow, "float32"), name)
        return rounded[expr]

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, *_PRODUCTS):
            return None
        left, right = value.args
        if stored_form(left, graph) is not None or stored_form(right, graph) is not None:
            return None
        why = kept.reason(graph.name) or _obstacle(value, graph)
        if why:
            graph.missed(f"stays float32: {why}")
            return None
        args = [operand(left, graph), operand(right, graph)]
        if args == [left, right]:
            graph.missed("stays float32: it has no constant weight")
            return None
        graph.passed(f"multiplies {source.dtype}")
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    for pattern in kept.unmatched():
        ctx.missed(source, "", f"keep={pattern} names no convolution or matmul")
    after = rebuild(mod, rewrite, source=source, ctx=ctx)
    if after is not mod:
        ctx.report.precision = source.dtype
    return after


class _Kept:
    """Which nodes the user wants in float32."""

    def __init__(self, mod: tvm.IRModule, source: "MixedPrecision") -> None:
        self.patterns = [one for one in source.keep.split("|") if one]
        blocks = mod["main"].body.blocks
        products = [
            binding.var.name
            for block in blocks
            for binding in block.bindings
            if is_op(binding.value, *_PRODUCTS)
        ]
        self.nodes = [node for name in products for node in name.split("|")]
        self.ends = {products[0], products[-1]} if products and source.keep_ends else set[str]()

    def unmatched(self) -> list[str]:
        """Patterns that name nothing."""
        return [p for p in self.patterns if not any(fnmatchcase(node, p) for node in self.nodes)]

    def reason(self, name: str) -> str:
        if name in self.ends:
            return "it is the first or the last one (keep-ends)"
        nodes = name.split("|")
        found = [p for p in self.patterns if any(fnmatchcase(node, p) for node in nodes)]
        return f"asked for by keep={found[0]}" if found else ""


def _obstacle(value: relax.Call, graph: Graph) -> str:
    """Why the operands are not rounded; empty where they are."""
    left, right = value.args
    types = {dtype_of(left), dtype_of(right), dtype_of(value)}
    if types != {"float32"}:
        return f"{' x '.join(sorted(types))} is no product of float32"
    shapes = shape_of(left), shape_of(right)
    if None in shapes or 0 in (*(shapes[0] or ()), *(shapes[1] or ())):
        return "its shape is not static, or empty"
    if not is_op(value, "relax.matmul") and _constant(right, graph) is None:
        return "its weight is computed at run time"
    if is_op(value, "relax.nn.conv2d"):
        groups, weight = int(attrs_of(value).groups), shapes[1] or (0, 0)
        if groups > 1 and weight[:2] == (groups, 1):
            return "each channel has a kernel of its own: memory is the limit, not arithmetic"
    return ""


def _constant(expr: relax.Expr, graph: Graph) -> object:
    producer = graph.producer(expr)
    if is_op(producer, "relax.permute_dims"):
        expr = producer.args[0]
    return constant_value(expr)
