"""Quantization and its inverse, with parameters in one form: scalars, or 1-D along `axis`."""

import numpy as np
from onnx import TensorProto, helper
from tvm import relax
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, is_float, scalar, shape_of


def quantize_linear(node: Node) -> Expr:
    """`saturate(round_half_even(x / scale) + zero_point)`."""
    _refuse_blocks(node)
    if node.attribute("precision", 0) not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
        raise node.error("a division in another precision than float32 is not supported")
    x = node[0] if is_float(node.dtype()) else op.astype(node[0], "float32")
    dtype = _quantized_dtype(node)
    zero_point = _parameter(node, 2)
    if zero_point is None:
        zero_point = scalar(0, dtype)
    return op.quantize(x, _given(node, 1), zero_point, axis=_axis(node), out_dtype=dtype)


def dequantize_linear(node: Node) -> Expr:
    """`(x - zero_point) scale`."""
    _refuse_blocks(node)
    wanted = node.attribute("output_dtype", 0)
    dtype = helper.tensor_dtype_to_np_dtype(wanted).name if wanted else node.dtype(1)
    zero_point = _parameter(node, 2)
    if zero_point is None:
        zero_point = scalar(0, node.dtype())
    return op.dequantize(node[0], _given(node, 1), zero_point, axis=_axis(node), out_dtype=dtype)


def dynamic_quantize_linear(node: Node) -> list[Expr]:
    """Quantizes to uint8 over the range of the data, 0 included; a range of 0 has the scale 1."""
    zero, steps = scalar(0, "float32"), scalar(255, "float32")
    low = node.emit(op.minimum(op.min(node[0]), zero))
    width = node.emit(op.subtract(op.maximum(op.max(node[0]), zero), low))
    scale = op.where(op.equal(width, zero), scalar(1, "float32"), op.divide(width, steps))
    scale = node.builder.emit(scale)
    first = op.round(op.clip(op.subtract(zero, op.divide(low, scale)), 0, 255))
    zero_point = node.builder.emit(op.astype(first, "uint8"))
    quantized = op.quantize(node[0], scale, zero_point, axis=0, out_dtype="uint8")
    return [node.emit(quantized), scale, zero_point]


def _refuse_blocks(node: Node) -> None:
    if node.attribute("block_size", 0):
        raise node.error("quantization in blocks (block_size) is not supported")


def _quantized_dtype(node: Node) -> str:
    wanted = node.attribute("output_dtype", 0)
    if wanted:
        return helper.tensor_dtype_to_np_dtype(wanted).name
    return "uint8" if node.get(2) is None else node.dtype(2)


def _axis(node: Node) -> int:
    """The axis of the parameters; without meaning, hence 0, where they are scalars."""
    rank = len(node.shape())
    if _elements(node, 1) == 1:
        return 0
    axis = node.attribute("axis", 1)
    if not -rank <= axis < rank:
        raise node.error(f"axis {axis} is out of range for a tensor of {rank} dimensions")
    return axis % rank


def _elements(node: Node, index: int) -> int:
    return int(np.prod(node.shape(index), dtype=np.int64))


def _given(node: Node, index: int) -> Expr:
    value = _parameter(node, index)
    if value is None:
        raise node.error(f"input {index} is missing")
    return value


def _parameter(node: Node, index: int) -> Expr | None:
    value = node.get(index)
    if value is None:
        return None
    if _elements(node, index) == 1:
        return _as_scalar(node, value)
    size = node.shape()[_axis(node)]
    if node.shape(index) != [size]:
        raise node.error(
            f"input {index} has the shape {node.shape(index)}; one element, or one for each of the "
            f"{size} along the axis, are supported"
        )
    return value


def _as_scalar(node: Node, value: Expr) -> Expr:
    if not shape_of(value):
        return value
    if isinstance(value, GenericConst):
        return constant(value.value.numpy().reshape(()))
    return node.emit(op.reshape(value, relax.ShapeExpr([])))


CONVERTERS: dict[str, Converter] = {
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "QuantizeLinear": quantize_linear,
}
