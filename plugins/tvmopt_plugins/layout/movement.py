"""Operators that only move elements, on blocked images."""

from typing import Any

from tvm import relax, topi

from tvmopt.rewriting import Graph, attrs_of, dtype_of, is_op, shape_of
from tvmopt_plugins.layout.blocked import ALONE, ANCHOR, Images


def concat(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.concat`, along channels only where all but the last operand fill their blocks."""
    if not is_op(value, "relax.concat") or not isinstance(value.args[0], relax.Tuple):
        return None
    parts = list(value.args[0].fields)
    found = [images.find(graph, part) for part in parts]
    shapes = [shape_of(part) for part in parts]
    result = shape_of(value)
    if all(image is None for image in found) or result is None or len(result) != 4:
        return None
    axis = int(attrs_of(value).axis) % 4
    channels = [shape[1] for shape in shapes if shape is not None]
    if axis == 1 and not all(images.is_whole(size) for size in channels[:-1]):
        graph.missed(
            f"leaves the blocked layout: parts of {', '.join(map(str, channels))} channels do not "
            f"fill blocks of {images.block}"
        )
        return None
    blocked: list[relax.Expr] = [images.enter(graph, part).var for part in parts]
    return images.leave(graph, relax.op.concat(blocked, axis), result[1])


def take_slice(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """A part of `relax.split`: of rows or columns, or of whole blocks of channels."""
    if not isinstance(value, relax.TupleGetItem):
        return None
    split = graph.producer(value.tuple_value)
    if not is_op(split, "relax.split"):
        return None
    image = images.find(graph, split.args[0])
    if image is None:
        return None
    axis = int(attrs_of(split).axis) % 4
    parts: Any = split.ty
    sizes = [int(part.shape.values[axis]) for part in parts.fields]
    begin = sum(sizes[: value.index])
    end = begin + sizes[value.index]
    return _cut(image.var, axis, begin, end, image.channels, graph, images)


def slice_evenly(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.strided_slice` along one axis: of rows or columns, or of whole blocks of channels."""
    if not is_op(value, "relax.strided_slice"):
        return None
    image = images.find(graph, value.args[0])
    before, after = shape_of(value.args[0]), shape_of(value)
    if image is None or before is None or after is None:
        return None
    axes, begins, ends = (_integers(arg) for arg in value.args[1:4])
    steps = _integers(value.args[4]) if len(value.args) > 4 else [1]
    if axes is None or begins is None or ends is None or steps is None:
        return None
    if len(axes) != 1 or set(steps) != {1}:
        return None
    axis = axes[0] % 4
    size = before[axis]
    begin = min(max(begins[0] + size if begins[0] < 0 else begins[0], 0), size)
    end = begin + after[axis]
    return _cut(image.var, axis, begin, end, image.channels, graph, images)


def _cut(
    image: relax.Expr,
    axis: int,
    begin: int,
    end: int,
    channels: int,
    graph: Graph,
    images: Images,
) -> relax.Expr | None:
    if axis == 1:
        if not images.is_whole(begin) or not (images.is_whole(end) or end == channels):
            graph.missed(
                f"leaves the blocked layout: channels {begin} to {end} are no whole blocks of "
                f"{images.block}"
            )
            return None
        channels = end - begin
        begin, end = begin // images.block, -(-end // images.block)
    return images.leave(graph, relax.op.strided_slice(image, [axis], [begin], [end]), channels)


def pad(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.nn.pad` of rows and columns."""
    if not is_op(value, "relax.nn.pad"):
        return None
    image = images.find(graph, value.args[0])
    attrs = attrs_of(value)
    widths = [int(width) for width in attrs.pad_width]
    if image is None or len(widths) != 8 or any(widths[2:4]):
        return None
    padded = relax.op.nn.pad(
        image.var, [*widths, 0, 0], str(attrs.pad_mode), float(attrs.pad_value)
    )
    plain = images.leave(graph, padded, image.channels)
    images.note_pad(plain, value)
    return plain


def resize(value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
    """`relax.image.resize2d`."""
    if not is_op(value, "relax.image.resize2d"):
        return None
    image = images.find(graph, value.args[0])
    attrs, result = attrs_of(value), shape_of(value)
    if image is None or result is None or str(attrs.layout) != "NCHW":
        return None
    # Read through a change of layout, each result would gather its neighbours one by one; what
    # stands for floats is followed by arithmetic.
    fusion = None if str(attrs.method) == "nearest_neighbor" else ALONE
    if dtype_of(value) != dtype_of(image.var):
        fusion = ANCHOR
    call = graph.bb.call_te(
        topi.image.resize2d,
        image.var,
        [float(r) for r in attrs.roi],
        [result[2], result[3]],
        f"NCHW{images.block}c",
        str(attrs.method),
        str(attrs.coordinate_transformation_mode),
        str(attrs.rounding_method),
        float(attrs.cubic_alpha),
        int(attrs.cubic_exclude),
        float(attrs.extrapolation_value),
        dtype_of(value),
        primfunc_name_hint="resize2d",
        primfunc_attrs=fusion,
    )
    return images.leave(graph, call, image.channels)


def _integers(arg: Any) -> list[int] | None:
    """The integers of a tuple of constants."""
    values = [getattr(field, "value", None) for field in getattr(arg, "fields", [])]
    if not values or any(not isinstance(v, int) and not hasattr(v, "value") for v in values):
        return None
    return [int(getattr(v, "value", v)) for v in values]
