"""Reductions: axes as an attribute or an input, and what an empty list of axes means."""

from collections.abc import Callable

import numpy as np
from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, is_float, scalar

Reduce = Callable[[Expr, list[int], bool], Expr]
Compute = Callable[[Node, Expr, list[int], bool], Expr]


def reduction(compute: Compute) -> Converter:
    """A reduction that `compute` does over given axes."""

    def convert(node: Node) -> Expr:
        x, shape = node[0], node.shape()
        axes = node.ints(1) if node.get(1) is not None else node.attribute("axes")
        if not axes:
            # an empty list reduces everything, or nothing at all where the node says so
            axes = [] if node.attribute("noop_with_empty_axes", 0) else list(range(len(shape)))
        axes = sorted({axis % len(shape) for axis in axes}) if shape else []
        keep = bool(node.attribute("keepdims", 1))
        return compute(node, x, axes, keep)

    return convert


def _plain(reduce: Reduce) -> Compute:
    def compute(_node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
        return reduce(x, axes, keep) if axes else x

    return compute


def _extreme(reduce: Reduce, infinity: float) -> Compute:
    """The maximum or minimum; `infinity` is what it has when all elements are that.

    TVM's reduction starts from the largest finite value instead, so that an all-infinite row comes
    out finite. That is mended except where the result is only subtracted, as in a decomposed
    softmax: such a row is NaN there either way.
    """

    def compute(node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
        if not axes:
            return x
        if node.dtype() == "bool":
            return op.astype(reduce(op.astype(x, "uint8"), axes, keep), "bool")
        found = reduce(x, axes, keep)
        if not is_float(node.dtype()) or node.readers == frozenset({"Sub"}):
            return found
        infinite = scalar(infinity, node.dtype())
        finite = op.max(op.astype(op.not_equal(x, infinite), "uint8"), axes, keep)
        return op.where(op.equal(finite, scalar(0, "uint8")), infinite, found)

    return compute


def _mean(node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    if not axes:
        return x
    if is_float(node.dtype()):
        return op.mean(x, axes, keep)
    count = int(np.prod([node.shape()[axis] for axis in axes]))
    return op.divide(op.sum(x, axes, keep), scalar(count, node.dtype()))


def _sum(x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    return op.sum(x, axes, keep) if axes else x


def _l1(_node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    return _sum(op.abs(x), axes, keep)


def _l2(node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    dtype = node.dtype()
    if is_float(dtype):
        return op.sqrt(_sum(op.multiply(x, x), axes, keep))
    wide = op.astype(x, "float64")
    return op.astype(op.sqrt(_sum(op.multiply(wide, wide), axes, keep)), dtype)


def _sum_square(_node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    return _sum(op.multiply(x, x), axes, keep)


def _log_sum(_node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    return op.log(_sum(x, axes, keep))


def _log_sum_exp(node: Node, x: Expr, axes: list[int], keep: bool) -> Expr:  # noqa: FBT001
    """`log(sum(exp(x)))`, shifted by the maximum so that it does not overflow."""
    if not axes:
        return x
    top = node.emit(op.max(x, axes, keepdims=True))
    top = node.emit(op.where(op.isfinite(top), top, scalar(0, node.dtype())))
    total = op.log(op.sum(op.exp(op.subtract(x, top)), axes, keep))
    shape = [n for i, n in enumerate(node.shape()) if i not in axes]
    return op.add(total, top if keep else op.reshape(top, shape))


CONVERTERS: dict[str, Converter] = {
    "ReduceL1": reduction(_l1),
    "ReduceL2": reduction(_l2),
    "ReduceLogSum": reduction(_log_sum),
    "ReduceLogSumExp": reduction(_log_sum_exp),
    "ReduceMax": reduction(_extreme(op.max, -np.inf)),
    "ReduceMean": reduction(_mean),
    "ReduceMin": reduction(_extreme(op.min, np.inf)),
    "ReduceProd": reduction(_plain(op.prod)),
    "ReduceSum": reduction(_plain(op.sum)),
    "ReduceSumSquare": reduction(_sum_square),
}
