"""Equal computations are done once."""

from typing import Any

from tvm import relax
from tvm.ir import GenericConst
from tvm_ffi import structural_equal

from tvmopt.rewriting import Graph, Rewrite, constant_value, dtype_of

_IMPURE = ("random", "dropout", "print", "call_", "memory", "builtin")


def share_equal() -> Rewrite:
    """`f(x), f(x) -> y = f(x); y, y`: the same operator with the same operands; exact.

    Constants are the same when they are one object, or small and equal bit by bit: larger ones
    are not compared, which would read all weights.
    """
    seen: dict[tuple[Any, ...], list[relax.Call]] = {}

    def share(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        name = getattr(value.op, "name", None) if isinstance(value, relax.Call) else None
        if not isinstance(value, relax.Call) or name is None:
            return None
        if any(word in name for word in _IMPURE):
            return None
        same = seen.setdefault((name, *(_key(arg) for arg in value.args)), [])
        for other in same:
            var = graph.variable(other)
            if var is not None and structural_equal(other.attrs, value.attrs):
                return var
        same.append(value)
        return None

    return share


def _key(arg: relax.Expr) -> Any:
    if isinstance(arg, relax.Tuple):
        return tuple(_key(field) for field in arg.fields)
    if isinstance(arg, GenericConst):
        array = constant_value(arg)
        if array is not None and array.size <= 16:
            return (dtype_of(arg), array.shape, array.tobytes())
        return arg
    if isinstance(arg, relax.Var):
        return arg
    return str(arg)
