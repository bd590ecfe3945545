"""Operators that do nothing."""

from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, dtype_of, is_op, shape_of


def drop_dropout(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`dropout(x)[0] = x` in inference; exact."""
    if not isinstance(value, relax.TupleGetItem) or value.index != 0:
        return None
    source = graph.producer(value.tuple_value)
    return source.args[0] if is_op(source, "relax.nn.dropout") else None


def take_tuple_apart(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`(a, b, ...)[i]` is the field itself."""
    if not isinstance(value, relax.TupleGetItem):
        return None
    source = graph.producer(value.tuple_value)
    return source.fields[value.index] if isinstance(source, relax.Tuple) else None


_KEEPS_ORDER = (
    "relax.reshape",
    "relax.squeeze",
    "relax.expand_dims",
    "relax.flatten",
    "relax.broadcast_to",
)


def drop_same(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`f(x) = x` where `f` moves or converts nothing: same shape, same dtype, same order; exact."""
    if not isinstance(value, relax.Call) or not value.args:
        return None
    source = value.args[0]
    if is_op(value, "relax.concat") and isinstance(source, relax.Tuple):
        return source.fields[0] if len(source.fields) == 1 else None
    shape = shape_of(value)
    if shape is None or shape != shape_of(source) or dtype_of(value) != dtype_of(source):
        return None
    match value.op:
        case _ if is_op(value, *_KEEPS_ORDER, "relax.astype"):
            return source
        case _ if is_op(value, "relax.permute_dims"):
            order = axes_of(value)
            moved = [axis for axis in order if shape[axis] != 1]
            return source if moved == sorted(moved) else None
        case _ if is_op(value, "relax.strided_slice"):
            strides = value.args[4].fields if len(value.args) > 4 else []
            return source if all(int(step) > 0 for step in strides) else None
        case _ if is_op(value, "relax.tile"):
            return source if all(int(n) == 1 for n in attrs_of(value).repeats) else None
        case _ if is_op(value, "relax.nn.pad"):
            return source if not any(int(n) for n in attrs_of(value).pad_width) else None
        case _:
            return None


def axes_of(permute: relax.Call) -> list[int]:
    """The order of a `permute_dims`, none of it negative: axis `i` of the result is `order[i]`."""
    rank = len(shape_of(permute) or ())
    axes = attrs_of(permute).axes
    if axes is None:
        return list(reversed(range(rank)))
    return [int(axis) % rank for axis in axes]
