"""Pooling over 1 to 3 spatial dimensions."""

from typing import Any

from tvmopt.compiler.exporter.draft import Site


def _window(site: Site) -> dict[str, Any]:
    attrs = site.attrs
    check_layout(site, attrs.layout)
    if attrs.ceil_mode:
        raise site.error("its last windows may be incomplete (ceil_mode)")
    return {
        "kernel_shape": [int(size) for size in attrs.pool_size],
        "strides": [int(step) for step in attrs.strides],
        "pads": [int(pad) for pad in attrs.padding],
    }


def check_layout(site: Site, layout: str) -> None:
    """Refuses what layout passes made."""
    if layout not in ("NCW", "NCHW", "NCDHW"):
        raise site.error(f"its layout is {layout}; export the graph before the stage LAYOUT")


def max_pool(site: Site) -> str:
    """The maximum of each window."""
    dilations = [int(d) for d in site.attrs.dilation]
    return site.last("MaxPool", site.tensor(0), dilations=dilations, **_window(site))


def average_pool(site: Site) -> str:
    """The mean of each window."""
    window = _window(site)
    dilations = [int(d) for d in site.attrs.dilation]
    if any(d != 1 for d in dilations):
        if site.opset < 19:
            raise site.error("its dilation needs operator set 19")
        window["dilations"] = dilations
    include = int(site.attrs.count_include_pad)
    return site.last("AveragePool", site.tensor(0), count_include_pad=include, **window)


WRITERS = {
    **{f"relax.nn.avg_pool{rank}d": average_pool for rank in (1, 2, 3)},
    **{f"relax.nn.max_pool{rank}d": max_pool for rank in (1, 2, 3)},
}
