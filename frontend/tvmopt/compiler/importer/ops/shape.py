"""Operators that change a tensor's shape or order, but pick no elements."""

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant


def reshape(node: Node) -> Expr:
    """The same elements in another shape; 0 keeps a dimension (unless `allowzero`), -1 fits."""
    wanted, shape = node.ints(1), node.shape()
    if wanted is None:
        wanted = list(node.attribute("shape"))  # an attribute before version 5
    if not node.attribute("allowzero", 0):
        wanted = [shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(wanted) != math.prod(shape):
        raise node.error(f"{shape} cannot become {wanted}: the numbers of elements differ")
    return node[0] if wanted == shape else op.reshape(node[0], wanted)


def flatten(node: Node) -> Expr:
    """A matrix of the dimensions before `axis` by those from it on."""
    shape, axis = node.shape(), node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return op.reshape(node[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def squeeze(node: Node) -> Expr:
    """Without the given dimensions of size 1, or without all of them."""
    shape = node.shape()
    axes = node.ints(1) if node.get(1) is not None else node.attribute("axes")
    if axes is None:
        axes = [i for i, size in enumerate(shape) if size == 1]
    gone = {axis % len(shape) for axis in axes}
    if bad := [axis for axis in gone if shape[axis] != 1]:
        raise node.error(f"dimension {bad[0]} of {shape} is not 1 and cannot be squeezed")
    return op.squeeze(node[0], sorted(gone)) if gone else node[0]


def unsqueeze(node: Node) -> Expr:
    """With dimensions of size 1 at the given places of the result."""
    axes = node.ints(1) if node.get(1) is not None else node.attribute("axes")
    rank = len(node.shape()) + len(axes)
    return op.expand_dims(node[0], sorted(axis % rank for axis in axes)) if axes else node[0]


def expand(node: Node) -> Expr:
    """Broadcast together with a shape; a 1 in it keeps the dimension."""
    wanted, shape = node.ints(1), node.shape()
    result = list(np.broadcast_shapes(shape, tuple(wanted or ())))
    return node[0] if result == shape else op.broadcast_to(node[0], result)


def tile(node: Node) -> Expr:
    """Repeated along each axis."""
    repeats = node.ints(1) or []
    return op.tile(node[0], repeats) if any(r != 1 for r in repeats) else node[0]


def concat(node: Node) -> Expr:
    """Joined along an axis; empty parts are left out."""
    axis = node.attribute("axis", 1)  # the default of version 1; required since version 4
    parts = [node[i] for i in range(len(node.inputs)) if 0 not in node.shape(i)]
    if not parts:
        return node[0]
    return op.concat(parts, axis) if len(parts) > 1 else parts[0]


def split(node: Node) -> Sequence[Expr]:
    """Cut along an axis into given sizes, or into equal ones with a smaller last."""
    shape, count = node.shape(), node.num_outputs
    axis = node.attribute("axis", 0) % len(shape)
    sizes = node.ints(1) if node.get(1) is not None else node.attribute("split")
    if sizes is None:
        step = -(-shape[axis] // count)
        sizes = [min(step, shape[axis] - i * step) for i in range(count)]
    if sum(sizes) != shape[axis] or min(sizes) < 0:
        raise node.error(f"the sizes {list(sizes)} do not sum up to {shape[axis]}")
    if len(sizes) == 1:
        return [node[0]]
    ends = np.cumsum(sizes).tolist()
    if 0 in sizes:
        return [
            op.strided_slice(node[0], [axis], [end - size], [end])
            if size
            else constant(np.zeros([*shape[:axis], 0, *shape[axis + 1 :]], node.dtype()))
            for size, end in zip(sizes, ends, strict=True)
        ]
    whole = node.builder.emit(op.split(node[0], ends[:-1], axis))
    return [relax.TupleGetItem(whole, i) for i in range(len(sizes))]


def pad(node: Node) -> Expr:
    """Padded by a value, the edge, a reflection, or periodically; negative padding crops."""
    shape, rank = node.shape(), len(node.shape())
    if node.opset < 11:
        widths = node.attribute("pads", node.attribute("paddings"))
        value = float(node.attribute("value", 0.0))
    else:
        widths = node.ints(1) or []
        given = node.constant(2)
        value = given.item() if given is not None and given.size else 0
    axes = [axis % rank for axis in (node.ints(3) or range(rank))]
    count = len(axes)
    begin, end = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        begin[axis], end[axis] = widths[index], widths[index + count]
    x = node[0]
    if any(width < 0 for width in begin + end):
        starts = [max(-width, 0) for width in begin]
        stops = [size - max(-width, 0) for size, width in zip(shape, end, strict=True)]
        x = node.emit(op.strided_slice(x, list(range(rank)), starts, stops))
        begin, end = [max(w, 0) for w in begin], [max(w, 0) for w in end]
    if not any(begin + end):
        return x
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        width = [w for pair in zip(begin, end, strict=True) for w in pair]
        if node.dtype() == "bool":
            return op.astype(
                op.nn.pad(op.astype(x, "uint8"), width, "constant", int(value)), "bool"
            )
        return op.nn.pad(x, width, "constant", value)
    return _take_padded(node, x, begin, end, mode)


_NUMPY_MODES = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def _take_padded(node: Node, x: Expr, begin: list[int], end: list[int], mode: str) -> Expr:
    """Padding that repeats data, as one gather per axis."""
    if mode not in _NUMPY_MODES:
        raise node.error(f"mode '{mode}' is not supported")
    sizes = [int(size) for size in x.ty.shape]
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            places = np.pad(np.arange(sizes[axis]), (before, after), mode=_NUMPY_MODES[mode])  # pyright: ignore[reportArgumentType, reportCallIssue]
            x = op.take(x, constant(places.astype(np.int64)), axis, "clip")
    return x


def depth_to_space(node: Node) -> Expr:
    """Blocks of channels become blocks of pixels."""
    n, c, h, w = node.shape()
    size = node.attribute("blocksize")
    depth = c // size**2
    if node.attribute("mode", "DCR") == "DCR":
        apart, order = [n, size, size, depth, h, w], [0, 3, 4, 1, 5, 2]
    else:
        apart, order = [n, depth, size, size, h, w], [0, 1, 4, 2, 5, 3]
    moved = op.permute_dims(op.reshape(node[0], apart), order)
    return op.reshape(moved, [n, depth, h * size, w * size])


def space_to_depth(node: Node) -> Expr:
    """Blocks of pixels become blocks of channels."""
    n, c, h, w = node.shape()
    size = node.attribute("blocksize")
    order = [0, 3, 5, 1, 2, 4] if node.attribute("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    apart = op.reshape(node[0], [n, c, h // size, size, w // size, size])
    return op.reshape(op.permute_dims(apart, order), [n, c * size**2, h // size, w // size])


def einsum(node: Node) -> Expr:
    """Einstein's sum; products of two matrices in any layout become one `matmul`."""
    equation = node.attribute("equation").replace(" ", "")
    product = _einsum_matmul(node, equation)
    if product is not None:
        return product
    return op.einsum([node[i] for i in range(len(node.inputs))], equation)


def _einsum_matmul(node: Node, equation: str) -> Expr | None:
    """`batch, rows, inner x batch, inner, columns`, or None when it is anything else."""
    if "->" not in equation or "." in equation or equation.count(",") != 1:
        return None
    terms, result = equation.split("->")
    left, right = terms.split(",")
    if any(len(set(term)) != len(term) for term in (left, right, result)):
        return None
    batch = [i for i in left if i in right and i in result]
    inner = [i for i in left if i in right and i not in result]
    rows = [i for i in left if i not in right]
    columns = [i for i in right if i not in left]
    if not inner or set(result) != {*batch, *rows, *columns}:
        return None
    sizes = dict(zip(left, node.shape(0), strict=True)) | dict(
        zip(right, node.shape(1), strict=True)
    )
    a = _matrix(node[0], left, sizes, (batch, rows, inner))
    b = _matrix(node[1], right, sizes, (batch, inner, columns))
    order = batch + rows + columns
    product = op.reshape(op.matmul(a, b), [sizes[i] for i in order])
    places = [order.index(i) for i in result]
    return product if places == sorted(places) else op.permute_dims(product, places)


def _matrix(
    x: Expr, term: str, sizes: dict[str, int], groups: tuple[list[str], list[str], list[str]]
) -> Expr:
    order = [term.index(i) for group in groups for i in group]
    moved = x if order == sorted(order) else op.permute_dims(x, order)
    batch, first, second = groups
    shape = [sizes[i] for i in batch]
    shape += [math.prod(sizes[i] for i in first), math.prod(sizes[i] for i in second)]
    return op.reshape(moved, shape)


CONVERTERS: dict[str, Converter] = {
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Unsqueeze": unsqueeze,
}
