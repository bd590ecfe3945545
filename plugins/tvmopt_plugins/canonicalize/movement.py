"""Reshapes, transposes and slices: fewer of them, in one order.

The order is slice, then reshape, then transpose: a slice of the last axis and a reshape are views,
and the one transpose that is left can become part of the kernel that reads it.
"""

from math import prod

from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, is_op, shape_of
from tvmopt_plugins.canonicalize.identities import axes_of


def as_reshape(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`squeeze`, `expand_dims`, `flatten` and transposes of unit axes are reshapes; exact."""
    if not is_op(
        value, "relax.squeeze", "relax.expand_dims", "relax.flatten", "relax.permute_dims"
    ):
        return None
    shape, source = shape_of(value), value.args[0]
    before = shape_of(source)
    if shape is None or before is None:
        return None
    if is_op(value, "relax.permute_dims"):
        moved = [axis for axis in axes_of(value) if before[axis] != 1]
        if moved != sorted(moved):
            return None
    return relax.op.reshape(source, shape)


def merge_reshapes(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`reshape(reshape(x)) = reshape(x)`; exact."""
    if not is_op(value, "relax.reshape"):
        return None
    inner, shape = graph.producer(value.args[0]), shape_of(value)
    if not is_op(inner, "relax.reshape") or shape is None:
        return None
    return relax.op.reshape(inner.args[0], shape)


def merge_transposes(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`transpose(transpose(x, p), q) = transpose(x, p[q])`; exact."""
    if not is_op(value, "relax.permute_dims"):
        return None
    inner = graph.producer(value.args[0])
    if not is_op(inner, "relax.permute_dims"):
        return None
    order = axes_of(inner)
    return relax.op.permute_dims(inner.args[0], [order[axis] for axis in axes_of(value)])


def reshape_before_transpose(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`reshape(transpose(x)) = transpose(reshape(x))` where only unit axes come or go; exact.

    Only where nobody else reads the transpose, which would then be done twice.
    """
    if not is_op(value, "relax.reshape") or graph.uses(value.args[0]) != 1:
        return None
    inner, shape = graph.producer(value.args[0]), shape_of(value)
    if not is_op(inner, "relax.permute_dims") or shape is None:
        return None
    source_shape = shape_of(inner.args[0])
    if source_shape is None:
        return None
    order = [axis for axis in axes_of(inner) if source_shape[axis] != 1]
    if [source_shape[axis] for axis in order] != [dim for dim in shape if dim != 1]:
        return None
    # Unit axes stand where the result wants them; the others keep the order they have in x.
    long_axes = [position for position, dim in enumerate(shape) if dim != 1]
    placed = dict(zip(sorted(order), long_axes, strict=True))
    new_shape, new_order = list(shape), list(range(len(shape)))
    for position, axis in zip(long_axes, order, strict=True):
        new_shape[placed[axis]] = source_shape[axis]
        new_order[position] = placed[axis]
    reshaped = graph.emit(relax.op.reshape(inner.args[0], new_shape))
    return relax.op.permute_dims(reshaped, new_order)


def slice_before_transpose(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`transpose(x)[a:b] = transpose(x[a:b])`: less is transposed; exact."""
    parts = _slice_of(value)
    if parts is None:
        return None
    source, axes, bounds = parts
    inner = graph.producer(source)
    if not is_op(inner, "relax.permute_dims"):
        return None
    order = axes_of(inner)
    sliced = graph.emit(_slice(inner.args[0], [order[axis] for axis in axes], bounds))
    return relax.op.permute_dims(sliced, order)


def slice_before_reshape(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`reshape(x)[..., a:b, :] = reshape(x[..., a*n:b*n])` where `n` elements follow; exact.

    For a slice of one axis that is the outermost of those that one axis of `x` was split into.
    """
    parts = _slice_of(value)
    if parts is None or len(parts[1]) != 1:
        return None
    source, (axis,), ((begin, end),) = parts
    inner, split, shape = graph.producer(source), shape_of(source), shape_of(value)
    if not is_op(inner, "relax.reshape") or split is None or shape is None:
        return None
    whole = shape_of(inner.args[0])
    if whole is None:
        return None
    outer = prod(split[:axis])
    position = next((i for i in range(len(whole)) if prod(whole[:i]) == outer and whole[i] > 1), -1)
    if position < 0 or whole[position] % split[axis] != 0:
        return None
    inside = whole[position] // split[axis]
    sliced = graph.emit(_slice(inner.args[0], [position], [(begin * inside, end * inside)]))
    return relax.op.reshape(sliced, shape)


def _slice_of(
    value: relax.Expr,
) -> tuple[relax.Expr, list[int], list[tuple[int, int]]] | None:
    """Source, axes and bounds of a slice without steps, the bounds inside the axes."""
    if not is_op(value, "relax.strided_slice") or attrs_of(value).assume_inbound:
        return None
    shape = shape_of(value.args[0])
    fields = [getattr(arg, "fields", None) for arg in value.args[1:]]
    if shape is None or any(field is None for field in fields):
        return None
    axes, begins, ends, *steps = [[int(item) for item in field or []] for field in fields]
    if any(step != 1 for step in (steps[0] if steps else [])):
        return None
    axes = [axis % len(shape) for axis in axes]
    bounds: list[tuple[int, int]] = []
    for axis, *pair in zip(axes, begins, ends, strict=True):
        size = shape[axis]
        begin, end = (min(max(at + size if at < 0 else at, 0), size) for at in pair)
        if begin >= end:
            return None
        bounds.append((begin, end))
    return value.args[0], axes, bounds


def _slice(source: relax.Expr, axes: list[int], bounds: list[tuple[int, int]]) -> relax.Expr:
    begins, ends = [begin for begin, _ in bounds], [end for _, end in bounds]
    return relax.op.strided_slice(source, axes, begins, ends, [1] * len(axes))
