"""Convolutions over 1 to 3 spatial dimensions."""

from typing import Any

from tvmopt.compiler.exporter.draft import Site
from tvmopt.compiler.exporter.ops.pooling import check_layout


def attributes(site: Site) -> dict[str, Any]:
    """What `Conv` and its relatives have in common."""
    attrs = site.attrs
    check_layout(site, attrs.data_layout)
    return {
        "strides": [int(step) for step in attrs.strides],
        "pads": [int(pad) for pad in attrs.padding],
        "dilations": [int(step) for step in attrs.dilation],
        "group": int(attrs.groups),
        "kernel_shape": site.shape(1)[2:],
    }


def convolution(site: Site) -> str:
    """A convolution; one of integers with int32 sums."""
    kind = "ConvInteger" if site.dtype() == "int32" else "Conv"
    return site.last(kind, site.tensor(0), site.tensor(1), **attributes(site))


def transposed_convolution(site: Site) -> str:
    """A transposed convolution."""
    extra = [int(size) for size in site.attrs.output_padding]
    inputs = site.tensor(0), site.tensor(1)
    return site.last("ConvTranspose", *inputs, output_padding=extra, **attributes(site))


WRITERS = {
    **{f"relax.nn.conv{rank}d": convolution for rank in (1, 2, 3)},
    **{f"relax.nn.conv{rank}d_transpose": transposed_convolution for rank in (1, 2, 3)},
}
