"""Functions of one quantized tensor that are quantized again: 256 numbers, looked up."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.quantization import dequantize, quantize
from tvmopt.rewriting import (
    Graph,
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    shape_of,
)
from tvmopt_plugins.realize_quantized.quantized import of_call

Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


_COSTLY: dict[str, Callable[..., Array]] = {
    "relax.sigmoid": _sigmoid,
    "relax.tanh": np.tanh,
    "relax.exp": np.exp,
    "relax.erf": _erf,
    "relax.sqrt": np.sqrt,
    "relax.nn.silu": lambda x: x * _sigmoid(x),
    "relax.nn.gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "relax.nn.softplus": lambda x: np.logaddexp(x, 0),
}
"""What a kernel computes in so many instructions that a table is faster."""

_SIMPLE: dict[str, Callable[..., Array]] = {
    "relax.nn.relu": lambda x: np.maximum(x, 0),
    "relax.negative": np.negative,
    "relax.abs": np.abs,
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
}

_MOST_DEPTH = 16


class _Elsewhere(Exception):  # noqa: N818 - no error: the search is over
    """Something that is no function of one quantized tensor."""


def look_up(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`quantize(f(dequantize(x)))` of a uint8 tensor `x` as `table[x]`.

    Each operator of `f` is computed in float64 and rounded to float32. SiLU between quantizations,
    `x * dequantize(quantize(sigmoid(x)))`, is one table, too.
    """
    if not is_op(value, "relax.quantize"):
        return None
    search = _Search(graph)
    try:
        table = search.values(value, _MOST_DEPTH)
    except _Elsewhere:
        return None
    if search.source is None or not search.is_costly or shape_of(value) != shape_of(search.source):
        return None
    index = graph.emit(relax.op.astype(search.source, "int32"))
    return relax.op.take(constant(table), index, axis=0)


class _Search:
    """Evaluates an expression for all that its one source may hold.

    Attributes:
        source: the uint8 tensor that all else is computed from.
        is_costly: whether an operator is among `_COSTLY`.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.source: relax.Expr | None = None
        self.is_costly = False

    def values(self, expr: relax.Expr, depth: int) -> Array:
        """The expression by the source's value, `[256]`, or a scalar.

        Raises:
            _Elsewhere: it is no such function.
        """
        array = constant_value(expr)
        if array is not None and array.size == 1:
            return array.reshape(())
        call = expr if isinstance(expr, relax.Call) else self._graph.producer(expr)
        if not isinstance(call, relax.Call) or depth == 0 or array is not None:
            raise _Elsewhere
        if is_op(call, "relax.quantize", "relax.dequantize"):
            return self._encoded(call, depth)
        if is_op(call, "relax.take"):
            return self._taken(call)
        if is_op(call, "relax.clip"):
            bounds = [float(getattr(one.value, "value", one.value)) for one in call.args[1:]]
            return np.clip(self.values(call.args[0], depth - 1), *map(np.float32, bounds))
        name = getattr(call.op, "name", "")
        function = _COSTLY.get(name) or _SIMPLE.get(name)
        if function is None or dtype_of(call) != "float32":
            raise _Elsewhere
        self.is_costly |= name in _COSTLY
        operands = [self.values(arg, depth - 1).astype("float64") for arg in call.args]
        with np.errstate(all="ignore"):
            return np.asarray(function(*operands), "float32")

    def _encoded(self, call: relax.Call, depth: int) -> Array:
        found = of_call(call)
        if found is None or not found.is_per_tensor:
            raise _Elsewhere
        if is_op(call, "relax.quantize"):
            zero = found.zero_point.astype(str(attrs_of(call).out_dtype))
            return quantize(self.values(found.values, depth - 1), found.scale, zero)
        integers = self._integers(found.values, depth)
        return dequantize(integers, found.scale, found.zero_point)

    def _integers(self, values: relax.Expr, depth: int) -> Array:
        producer = self._graph.producer(values)
        if is_op(producer, "relax.take", "relax.quantize"):
            try:
                return self.values(values, depth - 1)
            except _Elsewhere:
                pass
        if dtype_of(values) != "uint8" or constant_value(values) is not None:
            raise _Elsewhere
        if self.source is not None and not self.source.same_as(values):
            raise _Elsewhere
        self.source = values
        return np.arange(256, dtype="uint8")

    def _taken(self, call: relax.Call) -> Array:
        """What an earlier table holds."""
        table, index = constant_value(call.args[0]), self._graph.producer(call.args[1])
        if table is None or table.shape != (256,) or not is_op(index, "relax.astype"):
            raise _Elsewhere
        self.is_costly = True
        return table[self._integers(index.args[0], 0)]
