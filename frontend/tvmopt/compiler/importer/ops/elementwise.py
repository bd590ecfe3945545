"""Element-wise operators that TVM converts wrongly, not at all, or to more work than needed."""

from collections.abc import Callable

import numpy as np
from onnx import helper
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import (
    Converter,
    Node,
    constant,
    dtype_of,
    is_float,
    scalar,
    shape_of,
)

Binary = Callable[[Expr, Expr], Expr]


def binary(combine: Binary) -> Converter:
    """A binary operator; before version 7, `broadcast` and `axis` say how the second aligns."""

    def convert(node: Node) -> Expr:
        return combine(node[0], _aligned(node))

    return convert


def _aligned(node: Node) -> Expr:
    right = node[1]
    if node.opset >= 7 or not node.attribute("broadcast", 0):
        return right
    axis, shape = node.attribute("axis"), node.shape(1)
    if axis is None:
        return right
    rank = len(node.shape())
    trailing = rank - axis % rank - len(shape)
    return op.reshape(right, shape + [1] * trailing) if trailing else right


def variadic(combine: Binary) -> Converter:
    """An operator over any number of inputs, as a chain of binary ones."""

    def convert(node: Node) -> Expr:
        return _chain(node, combine)

    return convert


def mean(node: Node) -> Expr:
    """The mean of all inputs, element by element."""
    count = len(node.inputs)
    total = node.emit(_chain(node, op.add))
    return op.multiply(total, scalar(1 / count, node.dtype())) if count > 1 else total


def _chain(node: Node, combine: Binary) -> Expr:
    result = node[0]
    for index in range(1, len(node.inputs)):
        result = combine(result, node[index])
    return result


def cast(node: Node) -> Expr:
    """A cast; floating-point values out of an integer's range are undefined in ONNX too."""
    return _cast(node, helper.tensor_dtype_to_np_dtype(node.attribute("to")).name)


def cast_like(node: Node) -> Expr:
    """A cast to the type of the second input."""
    return _cast(node, node.dtype(1))


def _cast(node: Node, dtype: str) -> Expr:
    x = node[0]
    if dtype == node.dtype():
        return x
    if dtype == "bool":
        return op.not_equal(x, scalar(0, node.dtype()))
    return op.astype(x, dtype)


def is_inf(node: Node) -> Expr:
    """Infinities of the signs that `detect_positive` and `detect_negative` ask for."""
    x, dtype = node[0], node.dtype()
    positive, negative = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)
    if positive and negative:
        return op.equal(op.abs(x), scalar(np.inf, dtype))
    if positive or negative:
        return op.equal(x, scalar(np.inf if positive else -np.inf, dtype))
    return constant(np.zeros(node.shape(), bool))


def dropout(node: Node) -> list[Expr]:
    """The identity, as in inference; the mask is all true."""
    if node.opset >= 12 and (training := node.get(2)) is not None:
        if not isinstance(training, GenericConst):
            raise node.error("whether it trains is decided at run time; only inference compiles")
        ratio = node.constant(1)
        if training.value.numpy().item() and (ratio is None or ratio.item() > 0):
            raise node.error("it is in training mode; export the model for inference")
    mask = constant(np.ones(node.shape(), bool if node.opset >= 10 else node.dtype()))
    return [node[0], mask] if node.uses_output(1) else [node[0]]


def power(node: Node) -> Expr:
    """`x ** y`; small constant exponents are products, integer ones exact to 2**53."""
    x, y, dtype = node[0], node[1], node.dtype()
    if isinstance(y, GenericConst) and y.value.numpy().size == 1 and shape_of(y) in ([], [1]):
        exponent = float(y.value.numpy().item())
        wide = len(shape_of(y)) > len(node.shape())
        if exponent in (1.0, 2.0, 3.0) and not wide:
            return {1: x, 2: op.multiply(x, x), 3: op.multiply(op.multiply(x, x), x)}[int(exponent)]
        if exponent == 0.5 and is_float(dtype) and not wide:
            return op.sqrt(x)
    if is_float(dtype):
        return op.power(x, y if dtype_of(y) == dtype else op.astype(y, dtype))
    exact = op.power(op.astype(x, "float64"), op.astype(y, "float64"))
    return op.astype(op.round(exact) if not is_float(dtype_of(y)) else exact, dtype)


def modulo(node: Node) -> Expr:
    """The remainder with the divisor's sign, or with the dividend's when `fmod` is set."""
    x, y, dtype = node[0], node[1], node.dtype()
    if node.attribute("fmod", 0) or dtype.startswith("uint"):  # of unsigned, both are the same
        return op.mod(x, y)
    if not is_float(dtype):
        return op.floor_mod(x, y)
    zero = scalar(0, dtype)
    rest = node.emit(op.mod(x, y))  # not x - floor(x / y) y, which is NaN for an infinite y
    apart = op.logical_xor(op.less(rest, zero), op.less(y, zero))
    shifted = op.logical_and(op.not_equal(rest, zero), apart)
    return op.where(shifted, op.add(rest, y), rest)


def bit_shift(node: Node) -> Expr:
    """A shift; by as many bits as there are, or by a negative number of them, nothing is left.

    Shifting a signed integer right keeps its sign.
    """
    x, dtype = node[0], node.dtype()
    width = int(dtype.removeprefix("u").removeprefix("int"))
    amount = node[1] if dtype.startswith("u") else op.astype(node[1], f"u{dtype}")
    last = scalar(width - 1, f"u{dtype}".replace("uu", "u"))
    kept = node.emit(op.astype(op.minimum(amount, last), dtype))
    right = node.attribute("direction") == "RIGHT"
    shifted = op.right_shift(x, kept) if right else op.left_shift(x, kept)
    if right and not dtype.startswith("u"):
        return shifted
    return op.where(op.less_equal(amount, last), shifted, scalar(0, dtype))


def divide(node: Node) -> Expr:
    """A division; of integers, it rounds toward zero."""
    right = _aligned(node)
    integers = not is_float(node.dtype())
    if integers and isinstance(right, GenericConst) and not right.value.numpy().all():
        raise node.error("it divides integers by a constant 0")
    return op.divide(node[0], right)


CONVERTERS: dict[str, Converter] = {
    "Add": binary(op.add),
    "BitShift": bit_shift,
    "Cast": cast,
    "CastLike": cast_like,
    "Div": divide,
    "Dropout": dropout,
    "IsInf": is_inf,
    "Max": variadic(op.maximum),
    "Mean": mean,
    "Min": variadic(op.minimum),
    "Mod": modulo,
    "Mul": binary(op.multiply),
    "Pow": power,
    "Sub": binary(op.subtract),
    "Sum": variadic(op.add),
}
