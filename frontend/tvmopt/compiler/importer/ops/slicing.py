"""Operators that pick elements: slices, gathers, scatters, and what makes indices."""

from collections.abc import Sequence

import numpy as np
from onnx import helper, numpy_helper
from tvm import relax
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, scalar

MAX_INDEX = 2**31 - 1


def slice_(node: Node) -> Expr:
    """Slices with steps of either sign; bounds beyond the tensor are cut off, as in Python."""
    shape = node.shape()
    if node.opset < 10:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes, steps = node.attribute("axes"), None
    else:
        starts, ends = node.ints(1) or [], node.ints(2) or []
        axes, steps = node.ints(3), node.ints(4)
    axes = [axis % len(shape) for axis in (axes if axes is not None else range(len(starts)))]
    steps = steps or [1] * len(starts)
    x = node[0]
    chosen: list[tuple[int, range]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise node.error("a step is 0")
        chosen.append((axis, range(*slice(start, end, step).indices(shape[axis]))))
    chosen = [(axis, taken) for axis, taken in chosen if taken != range(shape[axis])]
    if any(len(taken) == 0 for _, taken in chosen):
        sizes = {axis: len(taken) for axis, taken in chosen}
        left = [sizes.get(axis, size) for axis, size in enumerate(shape)]
        return constant(np.zeros(left, node.dtype()))
    for axis, taken in [item for item in chosen if item[1].step < 0]:
        x = op.take(x, constant(np.array(taken, np.int64)), axis, "clip")
    forward = [item for item in chosen if item[1].step > 0]
    if not forward:
        return x
    return op.strided_slice(
        x,
        [axis for axis, _ in forward],
        [taken.start for _, taken in forward],
        [taken.stop for _, taken in forward],
        [taken.step for _, taken in forward],
    )


def gather(node: Node) -> Expr:
    """Slices of an axis by index; negative indices count from the end.

    An index out of range, which ONNX forbids, gives the nearest slice: TVM's default mode would
    read whatever lies beside the tensor.
    """
    shape = node.shape()
    axis = node.attribute("axis", 0) % len(shape)
    return op.take(node[0], _positive(node, 1, shape[axis]), axis, "clip")


def gather_elements(node: Node) -> Expr:
    """Elements of an axis by an index each."""
    shape = node.shape()
    axis = node.attribute("axis", 0) % len(shape)
    return op.gather_elements(node[0], _positive(node, 1, shape[axis]), axis)


def gather_nd(node: Node) -> Expr:
    """Slices by tuples of indices."""
    shape, batch = node.shape(), node.attribute("batch_dims", 0)
    width = node.shape(1)[-1]
    return op.gather_nd(node[0], _positive(node, 1, shape[batch : batch + width]), batch)


def scatter_elements(node: Node) -> Expr:
    """A copy with elements replaced, or combined, by an index each."""
    shape = node.shape()
    axis = node.attribute("axis", 0) % len(shape)
    indices = _positive(node, 1, shape[axis])
    return op.scatter_elements(node[0], indices, node[2], axis, _reduction(node))


def scatter_nd(node: Node) -> Expr:
    """A copy with slices replaced, or combined, by tuples of indices."""
    indices = _positive(node, 1, node.shape()[: node.shape(1)[-1]])
    return op.scatter_nd(node[0], indices, node[2], _reduction(node))


def _reduction(node: Node) -> str:
    reduction = node.attribute("reduction", "none")
    return "update" if reduction == "none" else reduction


def _positive(node: Node, index: int, sizes: int | Sequence[int]) -> Expr:
    """Indices without negative ones; `sizes` per last dimension where they are tuples."""
    indices, dtype = node[index], node.dtype(index)
    if isinstance(indices, GenericConst):
        values = indices.value.numpy()
        if (values >= sizes).any() or (values < -np.asarray(sizes)).any():
            raise node.error(f"an index is out of range for a dimension of {sizes}")
        if (values >= 0).all():
            return indices
        return constant(np.where(values < 0, values + sizes, values).astype(dtype))
    if dtype.startswith("uint"):
        return indices
    extents = constant(np.asarray(sizes, dtype))
    return op.where(op.less(indices, scalar(0, dtype)), op.add(indices, extents), indices)


def constant_of_shape(node: Node) -> Expr:
    """A tensor of one value."""
    value = node.attribute("value")
    array = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    fill = constant(array.reshape(()))
    shape = node.ints(0) or []
    return op.broadcast_to(fill, shape) if 0 not in shape else constant(np.full(shape, array))


def eye_like(node: Node) -> Expr:
    """Ones on a diagonal."""
    rows, columns = node.shape()
    elem_type = node.attribute("dtype")
    dtype = helper.tensor_dtype_to_np_dtype(elem_type).name if elem_type else node.dtype()
    return constant(np.eye(rows, columns, node.attribute("k", 0)).astype(dtype))


def triangle(node: Node) -> Expr:
    """The upper or lower triangle, the rest being 0."""
    shape, dtype = node.shape(), node.dtype()
    offset = node.ints(1)
    k = max(-MAX_INDEX, min(MAX_INDEX, offset[0] if offset else 0))
    rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])
    kept = columns - rows >= k if node.attribute("upper", 1) else columns - rows <= k
    if dtype == "bool":
        return op.logical_and(node[0], constant(np.broadcast_to(kept, shape[-2:])))
    return op.where(constant(kept), node[0], scalar(0, dtype))


def one_hot(node: Node) -> Expr:
    """`values[1]` at the index, `values[0]` elsewhere; an index out of range matches nothing."""
    shape, dtype = node.shape(), node.dtype()
    depth = int((node.ints(1) or [0])[0])
    axis = node.attribute("axis", -1) % (len(shape) + 1)
    indices = node[0]
    wide = indices if dtype == "int64" else op.astype(indices, "int64")
    zero, extent = scalar(0, "int64"), scalar(depth, "int64")
    wide = node.emit(op.where(op.less(wide, zero), op.add(wide, extent), wide))
    places = np.arange(depth).reshape([-1] + [1] * (len(shape) - axis))
    hit = op.equal(op.expand_dims(wide, axis), constant(places.astype(np.int64)))
    off, on = (op.take(node[2], scalar(i, "int64"), 0, "clip") for i in (0, 1))
    return op.where(hit, on, off)


def top_k(node: Node) -> Sequence[Expr]:
    """The largest or smallest `k` elements and their indices; sorted in any case."""
    k = node.attribute("k") if node.opset < 10 else (node.ints(1) or [0])[0]
    axis = node.attribute("axis", -1)
    if node.dtype().startswith("uint"):
        raise node.error(f"elements of type {node.dtype()} are not supported")
    largest = bool(node.attribute("largest", 1))
    both = node.builder.emit(op.topk(node[0], k, axis, "both", largest, "int64"))
    return [relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)]


def cumulative_sum(node: Node) -> Expr:
    """Sums up to each element, with it or (`exclusive`) without, from either end."""
    axis = (node.ints(1) or [0])[0] % len(node.shape())
    reverse, dtype = node.attribute("reverse", 0), node.dtype()
    x = op.flip(node[0], axis) if reverse else node[0]
    total = op.cumsum(x, axis, dtype, bool(node.attribute("exclusive", 0)))
    return op.flip(total, axis) if reverse else total


def reverse_sequence(node: Node) -> Expr:
    """The first elements of each sequence reversed; constant lengths only."""
    lengths = node.ints(1) or []
    shape = node.shape()
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)
    places = np.tile(np.arange(shape[time]), (shape[batch], 1))
    for row, length in enumerate(lengths):
        places[row, :length] = places[row, :length][::-1]
    view = [shape[i] if i in (time, batch) else 1 for i in range(len(shape))]
    grid = (places if batch < time else places.T).reshape(view)
    indices = constant(np.broadcast_to(grid, shape).astype(np.int64))
    return op.gather_elements(node[0], indices, time)


def where(node: Node) -> Expr:
    """A choice between two tensors, element by element."""
    return op.where(node[0], node[1], node[2])


def equal(node: Node) -> Expr:
    """Equality, element by element."""
    return op.equal(node[0], node[1])


CONVERTERS: dict[str, Converter] = {
    "ConstantOfShape": constant_of_shape,
    "CumSum": cumulative_sum,
    "Equal": equal,
    "EyeLike": eye_like,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": slice_,
    "TopK": top_k,
    "Trilu": triangle,
    "Where": where,
}
