"""Reading and making single Relax expressions."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, TypeGuard

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst


def is_op(value: relax.Expr | None, *names: str) -> TypeGuard[relax.Call]:
    """Whether `value` is a call of one of the Relax operators `names`, such as `relax.add`."""
    if not isinstance(value, relax.Call):
        return False
    name = getattr(value.op, "name", "")
    return isinstance(value.op, tvm.ir.Op) and name in names


def attrs_of(call: relax.Call) -> Any:
    """The attributes of an operator, for which TVM has no static types: `attrs_of(call).axis`."""
    return call.attrs


def remake(call: relax.Call, args: Sequence[relax.Expr], **changed: Any) -> relax.Call:
    """The same `relax.nn` operator on other operands, and with other attributes where named."""
    name: str = getattr(call.op, "name", "")
    make = getattr(relax.op.nn, name.removeprefix("relax.nn."))
    own = {
        key: getattr(call.attrs, key)
        for key in signature(make).parameters
        if key in dir(call.attrs)
    }
    return make(*args, **{**own, **changed})


def constant_value(expr: relax.Expr | None) -> np.ndarray[Any, Any] | None:
    """The elements of a constant tensor, without a copy (read only); None for anything else."""
    tensor: Any = getattr(expr, "value", None)
    if not isinstance(expr, GenericConst) or not isinstance(tensor, tvm.runtime.Tensor):
        return None
    try:
        array: np.ndarray[Any, Any] = np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):  # bool and types that NumPy lacks
        array = tensor.numpy()
    array.flags.writeable = False
    return array


def constant(array: np.ndarray[Any, Any]) -> GenericConst:
    """A constant with the array's elements and dtype.

    They are copied once, whatever the strides: a transposed or broadcast view costs no more.
    """
    name = array.dtype.name
    tensor: Any = tvm.runtime.empty(array.shape, name)
    try:
        np.copyto(np.from_dlpack(tensor), array)
    except (
        BufferError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # types that NumPy lacks
        return relax.const(np.ascontiguousarray(array).reshape(array.shape), name)
    return relax.const(tensor, name)


def scalar_value(expr: relax.Expr | None) -> float | int | bool | None:
    """The one value that all elements of a small constant have; None for anything else.

    Exporters write scalars as `[]`, `[1]` or `[1, 1]`, and some broadcast them ahead of time; a
    constant of more than 4096 elements is not looked at.
    """
    if not isinstance(expr, GenericConst):
        return None
    shape = shape_of(expr)
    if shape is None or int(np.prod(shape, dtype=np.int64)) not in range(1, 4097):
        return None
    array = constant_value(expr)
    if array is None:
        return None
    first = array.reshape(-1)[0]
    return first.item() if bool((array == first).all()) else None


def shape_of(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor expression; None when it is no tensor or not static."""
    shape = getattr(expr.ty, "shape", None)
    values = getattr(shape, "values", None)
    if values is None:
        return None
    dims = [getattr(dim, "value", None) for dim in values]
    return None if None in dims else tuple(int(dim) for dim in dims)  # pyright: ignore[reportArgumentType]


def dtype_of(expr: relax.Expr) -> str:
    """The dtype of a tensor expression as NumPy names it; empty for anything else."""
    return str(getattr(expr.ty, "dtype", ""))


def join_names(*names: str) -> str:
    """One name for a binding that computes several ONNX nodes: `conv1|bn1`, each node once."""
    parts = [part for name in names for part in name.split("|") if part]
    return "|".join(dict.fromkeys(parts))
