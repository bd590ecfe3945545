"""Computes ahead of time what depends on constants only.

NumPy does what exporters leave around weights (reshape, transpose, cast, simple arithmetic) at
memory speed; TVM's own FoldConstant, which builds a kernel for each operator, does the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.rewriting import (
    Graph,
    Rewrite,
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    shape_of,
)
from tvmopt_plugins.canonicalize.identities import axes_of

_Array = np.ndarray[Any, Any]

_KEPT = ("relax.quantize", "relax.dequantize")
"""A weight in few bits shall stay in few bits: the passes of the stage QUANTIZE want it so."""

_IMPURE = ("random", "dropout", "print", "builtin", "memory", "call_dps", "call_pure")

_ON_INTEGERS: dict[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.negative": np.negative,
    "relax.equal": np.equal,
    "relax.not_equal": np.not_equal,
    "relax.less": np.less,
    "relax.less_equal": np.less_equal,
    "relax.greater": np.greater,
    "relax.greater_equal": np.greater_equal,
    "relax.where": np.where,
}
_ON_FLOATS: dict[str, Callable[..., Any]] = {
    **_ON_INTEGERS,
    "relax.divide": np.divide,
    "relax.sqrt": np.sqrt,
    "relax.abs": np.abs,
    "relax.matmul": np.matmul,
}
"""Operators that IEEE 754 or the integers define to the last bit, and the plain product."""


def fold_constants(max_growth_bytes: int) -> Rewrite:
    """`f(constant) = constant`, if the result needs at most that much more room.

    Args:
        max_growth_bytes: how much larger than its operands a result may be.
    """

    def fold(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not isinstance(value, relax.Call) or is_op(value, *_KEPT):
            return None
        if is_op(value, "relax.shape_of"):
            shape = shape_of(value.args[0])
            return None if shape is None else relax.ShapeExpr(list(shape))
        args = [_see_through(arg, graph) for arg in value.args]
        tensors = _tensors(args)
        shape = shape_of(value)
        if tensors is None or shape is None:
            return None
        operands = sum(_size(tensor) for tensor in tensors)
        if _size(value) > operands + max_growth_bytes:
            graph.missed(
                f"a constant of {operands} bytes stays unfolded: it would grow to {_size(value)}"
            )
            return None
        array = _compute(value, args)
        if array is not None:
            return constant(array.reshape(shape).astype(dtype_of(value), copy=False))
        return _compute_with_tvm(value, args, graph)

    return fold


def _see_through(arg: relax.Expr, graph: Graph) -> relax.Expr:
    """A shape that a variable is bound to, instead of the variable."""
    source = graph.producer(arg)
    return source if isinstance(source, relax.ShapeExpr | GenericConst) else arg


def _tensors(args: Sequence[relax.Expr]) -> list[relax.Expr] | None:
    """The constant tensors among the operands; None when something is not constant."""
    found: list[relax.Expr] = []
    for arg in args:
        if isinstance(arg, GenericConst):
            found.append(arg)
        elif isinstance(arg, relax.Tuple):
            inner = _tensors(arg.fields)
            if inner is None:
                return None
            found += inner
        elif not isinstance(arg, relax.ShapeExpr | tvm.ir.Constant | tvm.ir.GlobalVar):
            return None
    return found


def _size(tensor: relax.Expr) -> int:
    """Size in bytes of a tensor of known shape."""
    bits = tvm.DataType(dtype_of(tensor)).bits
    return int(np.prod(shape_of(tensor) or (), dtype=np.int64)) * max(bits, 8) // 8


def _compute(value: relax.Call, args: Sequence[relax.Expr]) -> _Array | None:
    """The result by NumPy; None when it is not among those that are known to be the same."""
    name: str = getattr(value.op, "name", "")
    dtype, shape = dtype_of(value), shape_of(value)
    assert shape is not None
    if name == "relax.shape_to_tensor" and isinstance(args[0], relax.ShapeExpr):
        return np.array([int(dim) for dim in args[0].values], dtype=dtype)
    if name == "relax.arange":
        bounds = [getattr(arg, "value", None) for arg in args]
        return None if None in bounds else np.arange(*bounds, dtype=dtype)
    if name == "relax.concat" and isinstance(args[0], relax.Tuple):
        parts = [constant_value(field) for field in args[0].fields]
        if any(part is None for part in parts):
            return None
        axis = attrs_of(value).axis
        return np.concatenate(
            [part for part in parts if part is not None], 0 if axis is None else int(axis)
        )
    first = constant_value(args[0]) if args else None
    if first is None or first.dtype.name not in np.sctypeDict or dtype not in np.sctypeDict:
        return None
    match name:
        case "relax.reshape" | "relax.squeeze" | "relax.expand_dims" | "relax.flatten":
            return first.reshape(shape)
        case "relax.permute_dims":
            return first.transpose(axes_of(value))
        case "relax.broadcast_to":
            return np.broadcast_to(first, shape)
        case "relax.astype" if first.dtype.kind != "f" or np.dtype(dtype).kind == "f":
            return first.astype(dtype)
        case "relax.strided_slice":
            return _slice(first, args, shape)
        case "relax.take":
            return _take(first, constant_value(args[1]), value)
        case _:
            table = _ON_FLOATS if first.dtype.kind == "f" else _ON_INTEGERS
            operands = [constant_value(arg) for arg in args]
            if name not in table or any(operand is None for operand in operands):
                return None
            with np.errstate(all="ignore"):
                return np.asarray(table[name](*operands)).astype(dtype, copy=False)


def _slice(source: _Array, args: Sequence[relax.Expr], shape: tuple[int, ...]) -> _Array | None:
    fields: list[Any] = [getattr(arg, "fields", None) for arg in args[1:]]
    if any(field is None for field in fields):
        return None
    axes, begins, ends, *steps = [[int(item) for item in field] for field in fields]
    strides = steps[0] if steps else [1] * len(axes)
    if any(step < 1 for step in strides):
        return None
    index = [slice(None)] * source.ndim
    for axis, begin, end, step in zip(axes, begins, ends, strides, strict=True):
        index[axis] = slice(begin, end, step)
    result = source[tuple(index)]
    return result if result.shape == shape else None


def _take(source: _Array, indices: _Array | None, value: relax.Call) -> _Array | None:
    axis = attrs_of(value).axis
    if indices is None or axis is None or indices.dtype.kind not in "iu":
        return None
    if indices.size and not (indices.min() >= 0 and indices.max() < source.shape[int(axis)]):
        return None
    return np.take(source, indices, axis=int(axis))


def _compute_with_tvm(
    value: relax.Call, args: Sequence[relax.Expr], graph: Graph
) -> relax.Expr | None:
    """The result by TVM; None when it cannot fold this operator."""
    name: str = getattr(value.op, "name", "")
    if any(word in name for word in _IMPURE):
        return None
    functions: dict[Any, Any] = {}
    if isinstance(args[0] if args else None, tvm.ir.GlobalVar):
        functions[args[0]] = graph.bb.get()[args[0]]
    bb = relax.BlockBuilder(tvm.IRModule(functions))
    with bb.function("folded", []):
        with bb.dataflow():
            call = relax.Call(value.op, list(args), value.attrs, value.ty_args)
            result = bb.emit_output(call)
        bb.emit_func_output(result)
    folded: Any = relax.transform.FoldConstant()(bb.get())["folded"]
    found = folded.body.blocks[0].bindings[0].value if folded.body.blocks else folded.body.body
    return found if isinstance(found, GenericConst) else None
