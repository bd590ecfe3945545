"""What stands between the product of queries and keys and the softmax over it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tvmopt.rewriting import Graph, constant_value, dtype_of, is_op, scalar_value, shape_of

Value = Callable[[Any, Sequence[Any], Sequence[te.Tensor]], Any]
"""The value of a node at an index, from the product there and from the operands."""

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "relax.add": lambda a, b: a + b,
    "relax.subtract": lambda a, b: a - b,
    "relax.multiply": lambda a, b: a * b,
    "relax.divide": lambda a, b: a / b,
    "relax.maximum": tirx.max,
    "relax.minimum": tirx.min,
    "relax.negative": lambda a: tirx.const(0.0, "float32") - a,
    "relax.tanh": te.tanh,
    "relax.where": lambda condition, a, b: tirx.Select(condition, a, b),
}


@dataclass
class Scores:
    """The chain from a softmax back to a matmul.

    Attributes:
        shape: of the scores.
        product: the matmul, when it has been found.
        scale: what the product is multiplied with before anything else.
        operands: tensors that the chain reads beside the product.
        chain: the variables in between, in order of execution.
        hides: by how much constants lower the scores, and where, as arrays that broadcast to them.
        why: why there is no such chain.
    """

    shape: tuple[int, ...]
    product: relax.Call | None = None
    scale: float = 1.0
    operands: list[relax.Expr] = field(default_factory=list)
    chain: list[relax.Expr] = field(default_factory=list)
    hides: list[tuple[float, np.ndarray[Any, Any]]] = field(default_factory=list)
    why: str = ""


def read_scores(scores: relax.Expr, graph: Graph) -> tuple[Scores, Value]:
    """Reads the chain that ends in `scores`; without a `product` in it where there is none."""
    found = Scores(shape_of(scores) or ())
    return found, _read(scores, found, graph)


def _read(expr: relax.Expr, found: Scores, graph: Graph) -> Value:
    value = graph.producer(expr)
    if graph.uses(expr) != 1 or graph.is_output(expr):
        found.why = found.why or "its scores have another reader"
        return _nothing
    if is_op(value, "relax.matmul"):
        found.product = value
        found.chain.append(expr)
        return _the_product
    if not is_op(value, *_ELEMENTWISE):
        name = getattr(getattr(value, "op", None), "name", "") or "something else"
        found.why = f"between product and softmax stands {name}"
        return _nothing
    arguments: list[Value] = []
    for arg in value.args:
        is_next = found.product is None and _leads_to_product(arg, found.shape, graph)
        arguments.append(_read(arg, found, graph) if is_next else _operand(arg, found))
    if found.product is None:
        found.why = found.why or "its softmax does not read a product"
        return _nothing
    found.chain.append(expr)
    factor = scalar_value(value.args[1]) if is_op(value, "relax.multiply") else None
    if arguments[0] is _the_product and factor is not None and 0 < abs(factor) < np.inf:
        found.scale *= float(factor)
        return _the_product
    found.hides += _hidden(value)
    combine = _ELEMENTWISE[value.op.name]

    def combined(product: Any, index: Sequence[Any], tensors: Sequence[te.Tensor]) -> Any:
        return combine(*[argument(product, index, tensors) for argument in arguments])

    return combined


_FAR = 1e8
"""What lowers a score by more leaves it no weight beside another one: scores are far smaller."""


def _hidden(value: relax.Call) -> list[tuple[float, np.ndarray[Any, Any]]]:
    """Where an addition or selection with constants makes scores negligible, for good or nearly."""
    if is_op(value, "relax.add"):
        arrays = [constant_value(arg) for arg in value.args]
        return [
            (limit, array <= -limit)
            for array in arrays
            if array is not None
            for limit in (_FAR, np.inf)
        ]
    if not is_op(value, "relax.where"):
        return []
    allowed = constant_value(value.args[0])
    if allowed is None:
        return []
    for position, hidden in ((2, ~allowed.astype(bool)), (1, allowed.astype(bool))):
        other = scalar_value(value.args[position])
        if other is not None and other <= -_FAR:
            limits = (_FAR, np.inf) if other == -np.inf else (_FAR,)
            return [(limit, hidden) for limit in limits]
    return []


def keys_ahead(found: Scores) -> int | None:
    """By how much the number of a key that has a weight exceeds its query's at most.

    None where the first query may see the last key. A key that -inf hides has no weight. One that
    a large negative number hides has none if some other key of the row is not hidden, which is
    certain only where nothing but constants decides.
    """
    queries, keys = found.shape[-2:]

    def hidden_by(least: float) -> np.ndarray[Any, Any]:
        hidden = np.zeros((queries, keys), bool)
        for limit, array in found.hides:
            if limit == least:
                shared = array.all(axis=tuple(range(array.ndim - 2))) if array.ndim > 2 else array
                hidden |= np.broadcast_to(shared, (queries, keys))
        return hidden

    hidden = hidden_by(_FAR)
    decided = all(constant_value(operand) is not None for operand in found.operands)
    if not decided or hidden.all(axis=1).any():
        hidden = hidden_by(np.inf)
    last = keys - 1 - np.argmin(hidden[:, ::-1], axis=1)  # of a row without keys, the last of all
    ahead = int((last - np.arange(queries)).max())
    return ahead if ahead < keys - 1 else None


def _leads_to_product(expr: relax.Expr, shape: tuple[int, ...], graph: Graph) -> bool:
    """Whether a chain of element-wise operators on whole scores ends in a matmul."""
    value = graph.producer(expr)
    if shape_of(expr) != shape:
        return False
    if is_op(value, "relax.matmul"):
        return True
    return is_op(value, *_ELEMENTWISE) and any(
        _leads_to_product(arg, shape, graph) for arg in value.args
    )


def _operand(expr: relax.Expr, found: Scores) -> Value:
    scalar = scalar_value(expr)
    if scalar is not None:
        constant = tirx.const(scalar, dtype_of(expr))
        return lambda _product, _index, _tensors: constant
    position, shape = len(found.operands), shape_of(expr)
    if shape is None:
        found.why = "an operand of its scores has no static shape"
        return _nothing
    found.operands.append(expr)

    def element(_product: Any, index: Sequence[Any], tensors: Sequence[te.Tensor]) -> Any:
        aligned = list(index)[len(index) - len(shape) :]
        at = [0 if size == 1 else i for i, size in zip(aligned, shape, strict=True)]
        return tensors[position](*at)

    return element


def _the_product(product: Any, _index: Sequence[Any], _tensors: Sequence[te.Tensor]) -> Any:
    return product


def _nothing(_product: Any, _index: Sequence[Any], _tensors: Sequence[te.Tensor]) -> Any:
    raise AssertionError("a chain without a product is not computed")
