"""Inputs that a model accepts, made from a seed: token ids in range, masks of zeros and ones.

The range of an integer input follows from what the graph does with it. An input that reaches the
indices of a `Gather` must stay below the extent of the axis it picks from; one that no such
operator reads is taken for a mask.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tvmopt.model import TensorSpec

if TYPE_CHECKING:
    import onnx  # imported where a model is read: running a package needs none

Array = npt.NDArray[Any]
Fill = Literal["random", "zeros", "ones"]
Range = tuple[int, int]

# Operators whose output holds values of an input.
_PRESERVING = frozenset(
    {
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
# Operators that pick by index: the input that is the index.
_PICKING = {"Gather": 1, "GatherElements": 1}
_MASK: Range = (0, 1)


def sample_inputs(
    specs: Sequence[TensorSpec],
    ranges: Mapping[str, Range],
    seed: int = 0,
    fill: Fill = "random",
) -> dict[str, Array]:
    """Makes one set of inputs.

    Args:
        specs: the model's inputs.
        ranges: smallest and largest value of the integer inputs, from `input_ranges`.
        seed: same seed, same values.
        fill: `random` draws floats from the standard normal distribution and integers evenly from
            their range; the others are constant.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _sample(rng, spec, ranges.get(spec.name, _MASK), fill) for spec in specs}


def _sample(rng: np.random.Generator, spec: TensorSpec, bounds: Range, fill: Fill) -> Array:
    dtype = np.dtype(spec.dtype)
    if fill == "zeros":
        return np.zeros(spec.shape, dtype)
    if fill == "ones":
        return np.ones(spec.shape, dtype)
    if dtype.kind in "iub":
        low, high = _MASK if dtype.kind == "b" else bounds
        values = rng.integers(low, high, spec.shape, endpoint=True)
        # A row of a mask with nothing in it makes attention divide zero by zero.
        if bounds == _MASK and values.ndim:
            values[..., :1] = 1
        return values.astype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(spec.shape) + 1j * rng.standard_normal(spec.shape)).astype(
            dtype
        )
    return rng.standard_normal(spec.shape).astype(dtype)


def input_ranges(
    graph: "onnx.GraphProto",
    specs: Sequence[TensorSpec],
    constants: Mapping[str, tuple[int, ...]],
) -> dict[str, Range]:
    """The smallest and largest sensible value of each integer input, by name.

    Args:
        graph: a model's graph.
        specs: its inputs.
        constants: shapes of its initializers, which `graph` need not have.
    """
    nodes = list(_all_nodes(graph))
    shapes = {**constants, **{spec.name: spec.shape for spec in specs}}
    shapes |= _constant_shapes(nodes)
    ranges: dict[str, Range] = {}
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind not in "iu":
            continue
        extents = list(_extents_picked_from(spec.name, nodes, shapes))
        if extents:
            ranges[spec.name] = (0, max(min(extents) - 1, 0))
        elif dtype.itemsize <= 2:  # data, such as the pixels of an image
            info = np.iinfo(dtype)
            ranges[spec.name] = (int(info.min), int(info.max))
        else:
            ranges[spec.name] = _MASK
    return ranges


def _extents_picked_from(
    name: str, nodes: "Sequence[onnx.NodeProto]", shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[int]:
    carriers = {name}
    for node in nodes:  # in topological order, as ONNX demands
        index = _PICKING.get(node.op_type)
        if index is not None and len(node.input) > index and node.input[index] in carriers:
            shape = shapes.get(node.input[0])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if shape and -len(shape) <= axis < len(shape):
                yield shape[axis]
        elif node.op_type in _PRESERVING:
            read = node.input if node.op_type == "Concat" else node.input[:1]
            if carriers.intersection(read):
                carriers.update(node.output)


def _constant_shapes(nodes: "Iterable[onnx.NodeProto]") -> dict[str, tuple[int, ...]]:
    return {
        node.output[0]: tuple(attribute.t.dims)
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }


def _all_nodes(graph: "onnx.GraphProto") -> "Iterator[onnx.NodeProto]":
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
