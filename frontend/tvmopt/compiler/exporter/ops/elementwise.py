"""Element-wise operators."""

from collections.abc import Callable

import numpy as np
from onnx import helper

from tvmopt.compiler.exporter.draft import Site
from tvmopt.compiler.exporter.ops.bias import write_with_bias

_SAME = {
    "abs": "Abs",
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "divide": "Div",
    "equal": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "log": "Log",
    "logical_and": "And",
    "logical_not": "Not",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "negative": "Neg",
    "power": "Pow",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "subtract": "Sub",
    "tan": "Tan",
    "tanh": "Tanh",
    "where": "Where",
}


def _same(kind: str, site: Site) -> str:
    return site.last(kind, *(site.tensor(index) for index in range(len(site.call.args))))


def add(site: Site) -> str:
    """A sum; of a convolution or product and a bias, one node."""
    return write_with_bias(site) or _same("Add", site)


def not_equal(site: Site) -> str:
    """The negation of `Equal`."""
    return site.last("Not", site.step("Equal", site.tensor(0), site.tensor(1)))


def reciprocal_root(site: Site) -> str:
    """`1 / sqrt(x)`."""
    return site.last("Reciprocal", site.step("Sqrt", site.tensor(0)))


def astype(site: Site) -> str:
    """A cast."""
    try:
        to = helper.np_dtype_to_tensor_dtype(np.dtype(site.dtype()))
    except TypeError:
        raise site.error(f"{site.dtype()} is not supported") from None
    return site.last("Cast", site.tensor(0), to=to)


def clip(site: Site) -> str:
    """`min(max(x, low), high)`."""
    low, high = (site.scalar(bound.value) for bound in site.call.args[1:])
    return site.last("Clip", site.tensor(0), low, high)


def _writer(kind: str) -> Callable[[Site], str]:
    return lambda site: _same(kind, site)


WRITERS = {
    **{f"relax.{name}": _writer(kind) for name, kind in _SAME.items()},
    "relax.add": add,
    "relax.astype": astype,
    "relax.clip": clip,
    "relax.not_equal": not_equal,
    "relax.rsqrt": reciprocal_root,
}
