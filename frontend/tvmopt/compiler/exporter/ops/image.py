"""Resizing images."""

from tvmopt.compiler.exporter.draft import Site
from tvmopt.compiler.exporter.ops.pooling import check_layout

_MODES = {"nearest_neighbor": "nearest", "linear": "linear", "cubic": "cubic"}
_ROUNDINGS = {
    "round": "round_prefer_floor",
    "round_prefer_floor": "round_prefer_floor",
    "round_prefer_ceil": "round_prefer_ceil",
    "floor": "floor",
    "ceil": "ceil",
}


def resize(site: Site) -> str:
    """`Resize` to a size."""
    attrs = site.attrs
    check_layout(site, attrs.layout)
    inputs = [site.tensor(0), "", "", site.ints(site.shape(), "sizes")]
    mode = _MODES[str(attrs.method)]
    options: dict[str, object] = {}
    if mode == "nearest":
        options["nearest_mode"] = _ROUNDINGS[str(attrs.rounding_method)]
    if mode == "cubic":
        options["cubic_coeff_a"] = float(attrs.cubic_alpha)
        options["exclude_outside"] = int(attrs.cubic_exclude)
    coordinates = str(attrs.coordinate_transformation_mode)
    return site.last(
        "Resize", *inputs, mode=mode, coordinate_transformation_mode=coordinates, **options
    )


WRITERS = {"relax.image.resize2d": resize}
