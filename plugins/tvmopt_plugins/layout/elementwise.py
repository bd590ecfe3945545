"""Element-wise operators on blocked images, as they are."""

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op, shape_of
from tvmopt_plugins.layout.blocked import Images

_UNARY = (
    "abs acos acosh asin asinh astype atan atanh bitwise_not ceil clip cos cosh erf exp floor "
    "isfinite isinf isnan log logical_not negative round rsqrt sigmoid sign sin sinh sqrt square "
    "tan tanh trunc nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.selu nn.silu nn.softplus"
)
_BROADCAST = (
    "add atan2 bitwise_and bitwise_or bitwise_xor divide equal floor_divide floor_mod greater "
    "greater_equal left_shift less less_equal logical_and logical_or logical_xor maximum minimum "
    "mod multiply not_equal power right_shift subtract where"
)
_NAMES = tuple(f"relax.{name}" for name in (*_UNARY.split(), *_BROADCAST.split()))


def map_elements(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """The same operator on blocked operands, where one operand is blocked already.

    Constants are blocked ahead of time; operands with one channel for all get a dimension for the
    lanes; other operands enter the layout.
    """
    if not is_op(value, *_NAMES):
        return None
    result = shape_of(value)
    if result is None or len(result) != 4 or 0 in result:
        return None
    channels = result[1]
    found = [images.find(graph, arg) for arg in value.args]
    if not any(image is not None and image.channels == channels for image in found):
        return None
    args = [
        arg if not isinstance(arg.ty, relax.TensorType) else _operand(arg, channels, graph, images)
        for arg in value.args
    ]
    return images.leave(graph, relax.Call(value.op, args, value.attrs, value.ty_args), channels)


def look_up(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`table[x]` for a blocked image `x`; what its last block holds beyond is an index, too."""
    if not is_op(value, "relax.take"):
        return None
    table, index = value.args
    array, image = constant_value(table), images.find(graph, index)
    if image is None or array is None or array.ndim != 1:
        return None
    call = relax.Call(value.op, [table, image.var], value.attrs, value.ty_args)
    return images.leave(graph, call, image.channels)


def prelu(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`prelu(x) = max(x, 0) + alpha * min(x, 0)`, with `alpha` along the channels."""
    if not is_op(value, "relax.nn.prelu"):
        return None
    data, alpha = value.args
    shape = shape_of(data)
    slope = constant_value(alpha)
    if images.find(graph, data) is None or slope is None or shape is None:
        return None
    if int(attrs_of(value).axis) % len(shape) != 1:
        return None
    zero = relax.const(0.0, dtype_of(data))
    factor = _constant(slope, (1, -1, 1, 1))
    below = relax.op.multiply(relax.op.minimum(data, zero), factor)
    return relax.op.add(relax.op.maximum(data, zero), below)


def _operand(arg: relax.Expr, channels: int, graph: Graph, images: Images) -> relax.Expr:
    shape = shape_of(arg)
    assert shape is not None
    if len(shape) == 0:
        return arg
    shape = (1,) * (4 - len(shape)) + shape
    array = constant_value(arg)
    if shape[1] == 1 and channels > 1:
        lifted = (*shape, 1)
        return relax.op.reshape(arg, lifted) if array is None else _constant(array, lifted)
    if array is not None:
        return images.constant(array.reshape(shape))
    if shape != shape_of(arg):
        arg = graph.emit(relax.op.reshape(arg, shape))
    return images.enter(graph, arg).var


def _constant(array: np.ndarray, shape: tuple[int, ...]) -> relax.Expr:
    return relax.const(np.ascontiguousarray(array.reshape(shape)), array.dtype.name)
