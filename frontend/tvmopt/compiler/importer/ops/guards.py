"""What TVM's own converters are not given, because they would convert it wrongly."""

from collections.abc import Callable, Mapping

from tvmopt.compiler.importer.node import Node


def roi_align(node: Node) -> None:
    """TVM takes the maximum of interpolated samples, ONNX that of weighted corners."""
    if node.attribute("mode", "avg") == "max":
        raise node.error("mode 'max' is not supported")


def grid_sample(node: Node) -> None:
    """TVM's kernels know these modes only."""
    if node.attribute("mode", "linear") not in (
        "linear",
        "bilinear",
        "nearest",
        "cubic",
        "bicubic",
    ):
        raise node.error(f"mode '{node.attribute('mode')}' is not supported")


GUARDS: Mapping[str, Callable[[Node], None]] = {
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
}
