"""Operators that stand for vector instructions until a kernel is lowered, and what becomes of them.

An instruction that TVM has no expression for is a call of an LLVM function, whose text is imported
with the kernel and inlined.
"""

import threading
from collections.abc import Iterable
from typing import Any

import tvm
from tvm import ir, sym, tirx

_registering = threading.Lock()


def operator(name: str) -> ir.Op:
    """A pure operator that loops may be vectorized over."""
    # Kernels are lowered on several threads; TVM refuses an attribute that is there already, and
    # an operator is listed before it has all of them.
    with _registering:
        names: Any = ir.Op.list_op_names()
        if name not in {str(one) for one in names}:
            ir.register_op_attr(name, "TVectorizable", True)  # noqa: FBT003 - TVM's signature
            ir.register_op_attr(name, "TCallEffectKind", 1)  # CallEffectKind::kPure
            ir.register_op_attr(name, "TScriptPrinterName", name)
        return ir.Op.get(name)


def features_of(func: Any) -> frozenset[str]:
    """The instruction-set features that a kernel's target has, in LLVM's names."""
    target = func.attrs.get("target") if func.attrs else None
    named = [] if target is None else target.attrs.get("mattr", [])
    return frozenset(str(one).removeprefix("+") for one in named if str(one).startswith("+"))


def with_functions(body: Any, texts: Iterable[str]) -> Any:
    """A kernel's body that may call the functions of these LLVM modules."""
    for text in texts:
        zero = tirx.const(0, "int32")
        body = tirx.AttrStmt(zero, "pragma_import_llvm", ir.StringImm(text), body)
    return body


def are_neighbours(*parts: Any) -> bool:
    """Whether scalars lie side by side in memory."""
    if not all(isinstance(one, ir.TensorLoad) and lanes_of(one) == 1 for one in parts):
        return False
    first, *others = parts
    (start,) = first.indices
    analyzer = sym.Analyzer()
    return all(
        other.source.same_as(first.source)
        and analyzer.can_prove_equal(start + offset, other.indices[0])
        for offset, other in enumerate(others, start=1)
    )


def is_call(expr: Any, name: str) -> bool:
    """Whether an expression is a call of the operator `name`."""
    return isinstance(expr, ir.Call) and isinstance(expr.op, ir.Op) and expr.op.name == name


def is_constant(expr: Any) -> bool:
    """Whether an expression is a float constant, the same in each lane."""
    expr = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return isinstance(expr, tirx.FloatImm)


def lanes_of(expr: Any) -> int:
    """Lanes of a vector; 1 for a scalar."""
    return tvm.DataType(str(expr.ty)).lanes


def vector(dtype: str, lanes: int) -> str:
    """The type of `lanes` elements."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def like(value: float, dtype: str, lanes: int) -> Any:
    """The same number in each lane."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)
