"""Convolution and its transpose; `auto_pad` and `output_shape` become explicit padding."""

from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node
from tvmopt.compiler.importer.ops.windows import pads

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
CONVOLUTIONS = {1: op.nn.conv1d, 2: op.nn.conv2d, 3: op.nn.conv3d}
_TRANSPOSES = {1: op.nn.conv1d_transpose, 2: op.nn.conv2d_transpose, 3: op.nn.conv3d_transpose}


def convolution(node: Node) -> Expr:
    """A convolution over 1 to 3 spatial dimensions, `[N, C, ...]` and `[O, I, ...]`."""
    rank = spatial_rank(node)
    kernel = node.shape(1)[2:]
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    result = CONVOLUTIONS[rank](
        node[0],
        node[1],
        strides=list(strides),
        padding=pads(node, node.shape()[2:], kernel, strides, dilations),
        dilation=list(dilations),
        groups=node.attribute("group", 1),
        data_layout=LAYOUTS[rank],
        kernel_layout="OI" + LAYOUTS[rank][2:],
    )
    return _add_bias(node, result, rank)


def transposed_convolution(node: Node) -> Expr:
    """A transposed convolution; `output_shape` decides the padding where it is given."""
    rank = spatial_rank(node)
    kernel = node.shape(1)[2:]
    strides = list(node.attribute("strides", [1] * rank))
    dilations = list(node.attribute("dilations", [1] * rank))
    extra = list(node.attribute("output_padding", [0] * rank))
    padding = _transposed_pads(node, kernel, strides, dilations, extra)
    weight = node[1]
    if any(d != 1 for d in dilations):  # TVM's kernels ignore or refuse it
        weight = _dilated(node, weight, dilations)
    cropped = _TRANSPOSES[rank](
        node[0],
        weight,
        strides=strides,
        padding=[max(p, 0) for p in padding],
        output_padding=extra,
        groups=node.attribute("group", 1),
        data_layout=LAYOUTS[rank],
        kernel_layout="IO" + LAYOUTS[rank][2:],
    )
    if any(p < 0 for p in padding):  # an output larger than what is computed ends in zeros
        grow = [max(-p, 0) for p in padding]
        cropped = op.nn.pad(cropped, _interleaved([0, 0, *grow[:rank]], [0, 0, *grow[rank:]]))
    return _add_bias(node, cropped, rank)


def _transposed_pads(
    node: Node, kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> list[int]:
    auto, wanted = node.attribute("auto_pad", "NOTSET"), node.attribute("output_shape")
    rank = len(kernel)
    if wanted is None and auto in ("NOTSET", "VALID"):
        return list(node.attribute("pads", [0] * 2 * rank)) if auto == "NOTSET" else [0] * 2 * rank
    spatial = node.shape()[2:]
    if wanted is None:
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    wanted = list(wanted)[-rank:]
    begin: list[int] = []
    end: list[int] = []
    for axis in range(rank):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        total = (spatial[axis] - 1) * strides[axis] + extra[axis] + extent - wanted[axis]
        less, more = total // 2, total - total // 2
        begin.append(less if auto == "SAME_UPPER" else more)
        end.append(more if auto == "SAME_UPPER" else less)
    return begin + end


def _dilated(node: Node, weight: Expr, dilations: list[int]) -> Expr:
    """The kernel with zeros between its elements, which is what dilation means."""
    for axis, dilation in enumerate(dilations, start=2):
        shape = [int(size) for size in node.emit(weight).ty.shape]
        if dilation == 1 or shape[axis] == 1:
            continue
        apart = op.expand_dims(weight, axis + 1)
        width = [0] * 2 * (len(shape) + 1)
        width[2 * (axis + 1) + 1] = dilation - 1
        merged = [*shape[:axis], shape[axis] * dilation, *shape[axis + 1 :]]
        weight = op.reshape(op.nn.pad(apart, width), merged)
        end = (shape[axis] - 1) * dilation + 1
        weight = node.emit(op.strided_slice(weight, [axis], [0], [end]))
    return weight


def _interleaved(begin: list[int], end: list[int]) -> list[int]:
    return [width for pair in zip(begin, end, strict=True) for width in pair]


def spatial_rank(node: Node) -> int:
    """Dimensions of the image, 1 to 3."""
    rank = len(node.shape()) - 2
    if rank not in LAYOUTS:
        raise node.error(f"it has {rank} spatial dimensions; 1 to 3 are supported")
    return rank


def _add_bias(node: Node, result: Expr, rank: int) -> Expr:
    bias = node.get(2)
    if bias is None:
        return result
    return op.add(result, op.reshape(bias, [1, node.shape(2)[0]] + [1] * rank))


CONVERTERS: dict[str, Converter] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
}
