"""Padding with zeros becomes the padding of the operator that follows."""

from typing import Any

from tvm import relax

from tvmopt.rewriting import Graph, attrs_of, is_op, remake

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")


def pad_in_convolution(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`conv(pad(x, 0)) = conv(x, padding + pads)`; exact."""
    if not is_op(value, *_CONVOLUTIONS) or attrs_of(value).data_layout[:2] != "NC":
        return None
    return _absorb(value, graph)


def pad_in_average_pool(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`avg_pool(pad(x, 0)) = avg_pool(x, padding + pads, count_include_pad=True)`; exact.

    Only where the pool has no padding of its own or counts it as well, and does not round its
    output size up.
    """
    if not is_op(value, "relax.nn.avg_pool1d", "relax.nn.avg_pool2d", "relax.nn.avg_pool3d"):
        return None
    attrs = attrs_of(value)
    if attrs.ceil_mode or attrs.layout[:2] != "NC":
        return None
    if any(int(n) for n in attrs.padding) and not attrs.count_include_pad:
        return None
    return _absorb(value, graph, count_include_pad=True)


def pad_in_max_pool(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`max_pool(pad(x, 0)) = max_pool(x, padding + pads)` for `x >= 0`; exact.

    Holds where each window covers at least one element of `x`: pads smaller than the window.
    """
    if not is_op(value, "relax.nn.max_pool1d", "relax.nn.max_pool2d", "relax.nn.max_pool3d"):
        return None
    attrs = attrs_of(value)
    pad = graph.producer(value.args[0])
    if not is_op(pad, "relax.nn.pad") or attrs.ceil_mode or attrs.layout[:2] != "NC":
        return None
    if not _is_non_negative(graph.producer(pad.args[0])):
        graph.missed("zeros before a maximum stay: the padded tensor may be negative")
        return None
    rank = len(attrs.pool_size)
    pads = _spatial_pads(pad, rank)
    if pads is None or any(n >= int(attrs.pool_size[i % rank]) for i, n in enumerate(pads)):
        return None
    if any(int(n) for n in attrs.padding) or any(int(n) != 1 for n in attrs.dilation):
        return None
    return _absorb(value, graph)


def _is_non_negative(value: relax.Expr | None) -> bool:
    if is_op(value, "relax.clip"):
        return float(getattr(value.args[1], "value", -1)) >= 0
    return is_op(value, "relax.nn.relu", "relax.sigmoid", "relax.exp", "relax.abs")


def _absorb(value: relax.Call, graph: Graph, **changed: Any) -> relax.Call | None:
    pad = graph.producer(value.args[0])
    if not is_op(pad, "relax.nn.pad"):
        return None
    own = attrs_of(value).padding
    pads = _spatial_pads(pad, len(own) // 2)
    if pads is None:
        graph.missed("the padding before it is not of zeros on the spatial axes")
        return None
    padding = [int(a) + b for a, b in zip(own, pads, strict=True)]
    graph.passed("the padding before it became its own")
    return remake(value, [pad.args[0], *value.args[1:]], padding=padding, **changed)


def _spatial_pads(pad: relax.Call, rank: int) -> list[int] | None:
    """Pads before each spatial axis, then after each; None when they are not such."""
    attrs = attrs_of(pad)
    widths = [int(n) for n in attrs.pad_width]
    if attrs.pad_mode != "constant" or attrs.pad_value != 0 or len(widths) != 2 * (rank + 2):
        return None
    if any(widths[:4]) or any(n < 0 for n in widths):
        return None
    return widths[4::2] + widths[5::2]
