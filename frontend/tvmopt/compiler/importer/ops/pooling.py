"""Pooling. Padding is made explicit; what TVM's pools cannot do goes through a padded tensor."""

import math

import numpy as np
from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, scalar
from tvmopt.compiler.importer.ops.windows import pads

_MAX = {1: op.nn.max_pool1d, 2: op.nn.max_pool2d, 3: op.nn.max_pool3d}
_AVERAGE = {1: op.nn.avg_pool1d, 2: op.nn.avg_pool2d, 3: op.nn.avg_pool3d}


class _Window:
    """The geometry of one pooling node."""

    def __init__(self, node: Node) -> None:
        self.spatial = node.shape()[2:]
        rank = len(self.spatial)
        if rank not in _MAX:
            raise node.error(f"it has {rank} spatial dimensions; 1 to 3 are supported")
        self.rank = rank
        self.kernel = [int(k) for k in node.attribute("kernel_shape")]
        self.strides = [int(s) for s in node.attribute("strides", [1] * rank)]
        self.dilations = [int(d) for d in node.attribute("dilations", [1] * rank)]
        self.pads = pads(node, self.spatial, self.kernel, self.strides, self.dilations)
        auto = node.attribute("auto_pad", "NOTSET")
        self.ceil = bool(node.attribute("ceil_mode", 0)) and auto == "NOTSET"
        self.outputs = [self._output(axis) for axis in range(rank)]

    def _output(self, axis: int) -> int:
        """Windows along an axis; with `ceil_mode`, one that begins beyond the data is left out."""
        size, begin, end = self.spatial[axis], self.pads[axis], self.pads[axis + self.rank]
        extent = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        steps = (size + begin + end - extent) / self.strides[axis]
        count = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
        if self.ceil and (count - 1) * self.strides[axis] >= size + begin:
            count -= 1
        return count

    def full_pads(self) -> list[int]:
        """Padding that makes the last window complete: what `ceil_mode` means."""
        if not self.ceil:
            return self.pads
        ends: list[int] = []
        for axis in range(self.rank):
            extent = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            reach = (self.outputs[axis] - 1) * self.strides[axis] + extent
            ends.append(max(reach - self.spatial[axis] - self.pads[axis], 0))
        return [*self.pads[: self.rank], *ends]


def max_pool(node: Node) -> Expr:
    """The maximum of each window; padding never wins."""
    if node.uses_output(1):
        raise node.error("its second output, the indices of the maxima, is not supported")
    window = _Window(node)
    return _MAX[window.rank](
        node[0], window.kernel, window.strides, window.full_pads(), window.dilations
    )


def average_pool(node: Node) -> Expr:
    """The mean of each window, over its data or, with `count_include_pad`, also its padding."""
    window = _Window(node)
    include = bool(node.attribute("count_include_pad", 0))
    if not window.ceil and (include or all(d == 1 for d in window.dilations)):
        return _AVERAGE[window.rank](
            node[0],
            window.kernel,
            window.strides,
            window.pads,
            window.dilations,
            count_include_pad=include,
        )
    whole = _mean_of_all(node[0], window)
    share = math.prod(window.kernel) / _counts(window, include=include)
    return op.multiply(whole, constant(share.astype(node.dtype())))


def lp_pool(node: Node) -> Expr:
    """`(sum |x|^p)^(1/p)` of each window."""
    window = _Window(node)
    p, dtype = float(node.attribute("p", 2)), node.dtype()
    x = node[0]
    powered = op.multiply(x, x) if p == 2 else op.power(op.abs(x), scalar(p, dtype))
    total = op.multiply(_mean_of_all(powered, window), scalar(math.prod(window.kernel), dtype))
    return op.sqrt(total) if p == 2 else op.power(total, scalar(1 / p, dtype))


def _mean_of_all(x: Expr, window: _Window) -> Expr:
    """The sum of each window over the number of places in it, be they data or padding."""
    return _AVERAGE[window.rank](
        x,
        window.kernel,
        window.strides,
        window.full_pads(),
        window.dilations,
        count_include_pad=True,
    )


def _counts(window: _Window, *, include: bool) -> np.ndarray:
    """Elements of each window that are data, or data and padding of the file's own."""
    counts = np.ones((1, 1, *window.outputs))
    for axis in range(window.rank):
        size, begin = window.spatial[axis], window.pads[axis]
        low = 0 if include else begin
        high = size + begin + (window.pads[axis + window.rank] if include else 0)
        starts = np.arange(window.outputs[axis])[:, None] * window.strides[axis]
        places = starts + np.arange(window.kernel[axis]) * window.dilations[axis]
        inside = ((places >= low) & (places < high)).sum(axis=1)
        shape = [1] * (2 + window.rank)
        shape[2 + axis] = -1
        counts = counts * inside.reshape(shape)
    return counts


CONVERTERS: dict[str, Converter] = {
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
