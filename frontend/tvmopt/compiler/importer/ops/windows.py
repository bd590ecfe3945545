"""Geometry of sliding windows, shared by convolution and pooling."""

from collections.abc import Sequence

from tvmopt.compiler.importer.node import Node


def pads(
    node: Node,
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Explicit padding `[begin..., end...]` from `pads` or `auto_pad`.

    For `SAME_*` the output has `ceil(size / stride)` elements, and the odd element of padding goes
    to the end (`SAME_UPPER`) or to the beginning (`SAME_LOWER`).
    """
    auto = node.attribute("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.attribute("pads", [0] * 2 * len(spatial)))
    if auto == "VALID":
        return [0] * 2 * len(spatial)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"auto_pad is '{auto}', which ONNX does not know")
    begin: list[int] = []
    end: list[int] = []
    for size, extent, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if auto == "SAME_UPPER" else more)
        end.append(more if auto == "SAME_UPPER" else less)
    return begin + end
