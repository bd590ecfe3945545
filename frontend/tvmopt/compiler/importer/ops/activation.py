"""Activations; TVM's converters of these assume float32, or emit kernels no pass sees into."""

import math

from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, is_float, scalar


def clip(node: Node) -> Expr:
    """`min(max(x, low), high)`; bounds are attributes until version 11, a NaN bound is none."""
    x, dtype = node[0], node.dtype()
    if node.opset < 11:
        bounds = [node.attribute("min"), node.attribute("max")]
    else:
        given = [node.get(1), node.get(2)]
        if any(bound is not None and not isinstance(bound, GenericConst) for bound in given):
            return _clip_computed(node)
        values = [node.constant(1), node.constant(2)]
        bounds = [None if value is None else value.item() for value in values]
    if is_float(dtype):
        bounds = [None if b is None or math.isnan(b) else b for b in bounds]
    low, high = bounds
    if low is not None and high is not None and low <= high and is_float(dtype):
        return op.clip(x, low, high)
    if low is not None:
        x = op.maximum(x, scalar(low, dtype))
    if high is not None:
        x = op.minimum(x, scalar(high, dtype))
    return x


def _clip_computed(node: Node) -> Expr:
    x, low, high = node[0], node.get(1), node.get(2)
    if low is not None:
        x = op.maximum(x, low)
    if high is not None:
        x = op.minimum(x, high)
    return x


def elu(node: Node) -> Expr:
    """`x` where it is positive, else `alpha (exp(x) - 1)`."""
    x, dtype = node[0], node.dtype()
    return _elu(x, node.attribute("alpha", 1.0), dtype)


def selu(node: Node) -> Expr:
    """`gamma` times an Elu."""
    x, dtype = node[0], node.dtype()
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    gamma = node.attribute("gamma", 1.05070102214813232421875)
    return op.multiply(scalar(gamma, dtype), _elu(x, alpha, dtype))


def celu(node: Node) -> Expr:
    """`max(0, x) + min(0, alpha (exp(x / alpha) - 1))`."""
    x, dtype = node[0], node.dtype()
    alpha, zero = scalar(node.attribute("alpha", 1.0), dtype), scalar(0, dtype)
    grown = op.subtract(op.exp(op.divide(x, alpha)), scalar(1, dtype))
    return op.add(op.maximum(x, zero), op.minimum(zero, op.multiply(alpha, grown)))


def _elu(x: Expr, alpha: float, dtype: str) -> Expr:
    low = op.multiply(scalar(alpha, dtype), op.subtract(op.exp(x), scalar(1, dtype)))
    return op.where(op.greater(x, scalar(0, dtype)), x, low)


def thresholded_relu(node: Node) -> Expr:
    """`x` where it exceeds `alpha`, else 0."""
    x, dtype = node[0], node.dtype()
    above = op.greater(x, scalar(node.attribute("alpha", 1.0), dtype))
    return op.where(above, x, scalar(0, dtype))


def prelu(node: Node) -> Expr:
    """`slope x` where `x` is negative; the slope is per channel before version 7."""
    x, slope, dtype = node[0], node[1], node.dtype()
    if node.opset < 7 and len(node.shape(1)) == 1 and len(node.shape()) > 1:
        slope = op.reshape(slope, [node.shape(1)[0]] + [1] * (len(node.shape()) - 2))
    return op.where(op.less(x, scalar(0, dtype)), op.multiply(x, slope), x)


def swish(node: Node) -> Expr:
    """`x sigmoid(alpha x)`."""
    x, alpha = node[0], node.attribute("alpha", 1.0)
    if alpha == 1.0:
        return op.nn.silu(x)
    return op.multiply(x, op.sigmoid(op.multiply(scalar(alpha, node.dtype()), x)))


def softplus(node: Node) -> Expr:
    """`log(1 + exp(x))`, as `max(x, 0) + log(1 + exp(-|x|))`, which does not overflow."""
    x, dtype = node[0], node.dtype()
    small = op.log(op.add(scalar(1, dtype), op.exp(op.negative(op.abs(x)))))
    return op.add(op.maximum(x, scalar(0, dtype)), small)


def mish(node: Node) -> Expr:
    """`x tanh(log(1 + e))` with `e = exp(x)`, as `x w / (w + 2)` with `w = e (e + 2)`.

    That is exact, and keeps small values where `log(1 + e)` would lose them; from 20 on, the factor
    is 1 in float32.
    """
    x, dtype = node[0], node.dtype()
    grown = node.emit(op.exp(op.minimum(x, scalar(20 if dtype != "float16" else 5, dtype))))
    w = node.emit(op.multiply(grown, op.add(grown, scalar(2, dtype))))
    return op.multiply(x, op.divide(w, op.add(w, scalar(2, dtype))))


def hard_sigmoid(node: Node) -> Expr:
    """`max(0, min(1, alpha x + beta))`."""
    x, dtype = node[0], node.dtype()
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    line = op.add(op.multiply(x, scalar(alpha, dtype)), scalar(beta, dtype))
    return op.clip(line, 0, 1)


def hard_swish(node: Node) -> Expr:
    """`x max(0, min(1, x/6 + 1/2))`."""
    x, dtype = node[0], node.dtype()
    ramp = op.clip(op.add(x, scalar(3, dtype)), 0, 6)
    return op.multiply(op.multiply(x, ramp), scalar(1 / 6, dtype))


CONVERTERS: dict[str, Converter] = {
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Mish": mish,
    "PRelu": prelu,
    "Selu": selu,
    "Softplus": softplus,
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
}
