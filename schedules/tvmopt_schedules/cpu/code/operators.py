"""Operators that stand for instructions until the compiler lowers a kernel."""

from typing import Any

from tvm import ir

_PURE = 1  # TVM: CallEffectKind::kPure


def pure_operator(name: str) -> ir.Op:
    """A pure operator that loops may be vectorized over.

    To be called when a module is imported, which one thread does: TVM refuses an attribute that is
    there already.
    """
    names: Any = ir.Op.list_op_names()
    if name not in {str(one) for one in names}:
        ir.register_op_attr(name, "TVectorizable", True)  # noqa: FBT003 - TVM's signature
        ir.register_op_attr(name, "TCallEffectKind", _PURE)
        ir.register_op_attr(name, "TScriptPrinterName", name)
    return ir.Op.get(name)
