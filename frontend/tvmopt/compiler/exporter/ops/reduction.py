"""Reductions."""

from collections.abc import Callable

from tvmopt.compiler.exporter.draft import Site

_AXES_ARE_INPUTS = {"ReduceSum": 13}
"""Since which version the axes are an input; 18 for all others."""


def mean(site: Site) -> str:
    """A mean; over the image, the pooling operator, which runtimes have in integers."""
    rank, axes = len(site.shape(0)), _axes(site)
    if rank >= 3 and axes == list(range(2, rank)) and site.attrs.keepdims:
        return site.last("GlobalAveragePool", site.tensor(0))
    return _reduce("ReduceMean", site)


def _axes(site: Site) -> list[int]:
    rank = len(site.shape(0))
    given = site.attrs.axis
    return sorted(int(a) % rank for a in given) if given is not None else list(range(rank))


def _reduce(kind: str, site: Site) -> str:
    axes, keepdims = _axes(site), int(site.attrs.keepdims)
    if site.opset >= _AXES_ARE_INPUTS.get(kind, 18):
        return site.last(kind, site.tensor(0), site.ints(axes, "axes"), keepdims=keepdims)
    return site.last(kind, site.tensor(0), axes=axes, keepdims=keepdims)


def _position(kind: str, site: Site) -> str:
    axis = site.attrs.axis
    if axis is None:
        raise site.error("it has no axis")
    keepdims = int(site.attrs.keepdims)
    return site.last(kind, site.tensor(0), axis=int(axis), keepdims=keepdims)


def _writer(write: Callable[[str, Site], str], kind: str) -> Callable[[Site], str]:
    return lambda site: write(kind, site)


WRITERS = {
    "relax.argmax": _writer(_position, "ArgMax"),
    "relax.argmin": _writer(_position, "ArgMin"),
    "relax.max": _writer(_reduce, "ReduceMax"),
    "relax.mean": mean,
    "relax.min": _writer(_reduce, "ReduceMin"),
    "relax.prod": _writer(_reduce, "ReduceProd"),
    "relax.sum": _writer(_reduce, "ReduceSum"),
}
