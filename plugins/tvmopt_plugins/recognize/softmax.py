"""Softmax, written out as exponentials over their sum."""

from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, is_op, shape_of


def recognize_softmax(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`exp(x - max(x)) / sum(exp(x - max(x)))` and `exp(x) / sum(exp(x))` are `softmax(x)`.

    The second form overflows for large `x`, where softmax does not; else the same to rounding.
    """
    if not is_op(value, "relax.divide"):
        return None
    numerator, total = value.args[0], graph.producer(value.args[1])
    power = graph.producer(numerator)
    if not is_op(power, "relax.exp") or not is_op(total, "relax.sum"):
        return None
    if not total.args[0].same_as(numerator):
        return None
    axes = _axes(total)
    if len(axes) != 1 or not attrs_of(total).keepdims:
        graph.missed(f"no softmax: the sum runs over axes {axes}")
        return None
    data = power.args[0]
    difference = graph.producer(data)
    if is_op(difference, "relax.subtract"):
        largest = graph.producer(difference.args[1])
        if is_op(largest, "relax.max") and largest.args[0].same_as(difference.args[0]):
            if not attrs_of(largest).keepdims:
                # Without its axis the maximum broadcasts along another one.
                graph.missed("maximum without keepdims: kept as a shift")
            elif _axes(largest) == axes:
                data = difference.args[0]
            else:
                # Any shift that is constant along the sum's axis cancels; this one is not.
                graph.missed(
                    f"maximum over axes {_axes(largest)}, sum over {axes}: kept as a shift"
                )
    graph.absorb(numerator)
    graph.passed("recognized as softmax")
    return relax.op.nn.softmax(data, axes[0])


def _axes(reduction: relax.Call) -> list[int]:
    rank = len(shape_of(reduction.args[0]) or ())
    axes = attrs_of(reduction).axis
    return sorted(int(axis) % rank for axis in axes) if axes else list(range(rank))
