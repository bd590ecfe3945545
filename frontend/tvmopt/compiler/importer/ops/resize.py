"""Resize and Upsample. What TVM's kernel cannot do exactly becomes a small matrix per axis.

A resize is separable and linear: along each axis, every output element is a weighted sum of input
elements. Those weights are computed here, in NumPy, by the definition of the operator
(https://onnx.ai/onnx/operators/onnx__Resize.html).
"""

import math
from dataclasses import dataclass

import numpy as np
from tvm.ir import Expr
from tvm.relax import op

from tvmopt.compiler.importer.node import (
    Converter,
    Node,
    constant,
    dtype_of,
    is_float,
    scalar,
    shape_of,
)

_TVM_METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
_TVM_COORDINATES = {"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"}
_TVM_ROUNDING = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}


@dataclass(frozen=True)
class Axis:
    """How one axis is resized; `roi` is the region of interest for `tf_crop_and_resize`."""

    size: int
    result: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def exact(self) -> bool:
        """Whether the scale is just the quotient of the sizes, as TVM's kernel takes it to be."""
        return math.isclose(self.scale * self.size, self.result, rel_tol=1e-6)

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens along this axis."""
        return self.size == self.result and self.scale == 1.0


def resize(node: Node) -> Expr:
    """Resizes along any axes, by TVM's kernel where it is exact."""
    axes = _axes(node)
    mode = node.attribute("mode", "nearest")
    coordinates = _coordinates(node)
    if coordinates != "tf_crop_and_resize" and all(axis.is_identity for axis in axes):
        return node[0]
    if _suits_tvm(node, axes, mode, coordinates):
        return op.image.resize2d(
            node[0],
            size=[axis.result for axis in axes[2:]],
            layout="NCHW",
            method=_TVM_METHODS[mode],
            coordinate_transformation_mode=coordinates,
            rounding_method=_rounding(node) if mode == "nearest" else "",
            cubic_alpha=node.attribute("cubic_coeff_a", -0.75),
            cubic_exclude=node.attribute("exclude_outside", 0),
        )
    result = node[0]
    for index, axis in enumerate(axes):
        if not axis.is_identity or coordinates == "tf_crop_and_resize":
            result = node.emit(_resize_axis(node, result, index, axis, mode, coordinates))
    return result


def _coordinates(node: Node) -> str:
    old = "asymmetric" if node.opset < 11 else "half_pixel"
    return node.attribute("coordinate_transformation_mode", old)


def _rounding(node: Node) -> str:
    return node.attribute("nearest_mode", "floor" if node.opset < 11 else "round_prefer_floor")


def _suits_tvm(node: Node, axes: list[Axis], mode: str, coordinates: str) -> bool:
    return (
        len(axes) == 4
        and axes[0].is_identity
        and axes[1].is_identity
        and all(axis.exact for axis in axes)
        and is_float(node.dtype())
        and mode in _TVM_METHODS
        and coordinates in _TVM_COORDINATES
        and _rounding(node) in _TVM_ROUNDING
        and not node.attribute("antialias", 0)
        and not (coordinates == "align_corners" and any(axis.result == 1 for axis in axes[2:]))
        and not (mode == "cubic" and node.attribute("exclude_outside", 0))
    )


def _axes(node: Node) -> list[Axis]:
    shape = node.shape()
    rank = len(shape)
    if node.proto.op_type == "Upsample" or node.opset < 11:
        given = node.attribute("scales") if node.opset < 9 else node.constant(1)
        scales, sizes, roi = given, None, None
    else:
        roi, scales, sizes = node.constant(1), node.constant(2), node.ints(3)
    chosen = [axis % rank for axis in node.attribute("axes", list(range(rank)))]
    axes = [Axis(size, size, 1.0) for size in shape]
    regions = _regions(roi, len(chosen))
    if sizes:
        for index, axis in enumerate(_sized(node, shape, chosen, sizes)):
            axes[chosen[index]] = Axis(axis.size, axis.result, axis.scale, regions[index])
        return axes
    if scales is None or len(scales) != len(chosen):
        raise node.error("it has neither sizes nor scales for its axes")
    for index, scale in enumerate(float(s) for s in scales):
        size = shape[chosen[index]]
        region = regions[index]
        if _coordinates(node) == "tf_crop_and_resize":
            result = math.floor(size * (region[1] - region[0]) * scale)
        else:
            result = math.floor(size * scale)
        axes[chosen[index]] = Axis(size, result, scale, region)
    return axes


def _regions(roi: np.ndarray | None, count: int) -> list[tuple[float, float]]:
    if roi is None or roi.size != 2 * count:
        return [(0.0, 1.0)] * count
    return [(float(roi[i]), float(roi[i + count])) for i in range(count)]


def _sized(node: Node, shape: list[int], chosen: list[int], sizes: list[int]) -> list[Axis]:
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    quotients = [size / shape[axis] for size, axis in zip(sizes, chosen, strict=True)]
    if policy == "stretch":
        return [
            Axis(shape[axis], size, quotient)
            for axis, size, quotient in zip(chosen, sizes, quotients, strict=True)
        ]
    scale = min(quotients) if policy == "not_larger" else max(quotients)
    return [Axis(shape[axis], math.floor(scale * shape[axis] + 0.5), scale) for axis in chosen]


def _resize_axis(node: Node, x: Expr, index: int, axis: Axis, mode: str, coordinates: str) -> Expr:
    places = _places(axis, coordinates)
    outside = (places < 0) | (places > axis.size - 1)
    fill = node.attribute("extrapolation_value", 0.0)
    if mode == "nearest":
        chosen = _nearest(places, _rounding(node)).clip(0, axis.size - 1)
        result = op.take(x, constant(chosen.astype(np.int64)), index, "clip")
    else:
        weights = _weights(node, places, axis, mode)
        result = _apply(node, x, weights, index)
    if coordinates == "tf_crop_and_resize" and outside.any():
        mask = outside.reshape([-1 if i == index else 1 for i in range(len(shape_of(x)))])
        result = op.where(constant(mask), scalar(fill, dtype_of(x)), result)
    return result


def _places(axis: Axis, coordinates: str) -> np.ndarray:
    """Where each output element lies along the input."""
    out = np.arange(axis.result, dtype=np.float64)
    match coordinates:
        case "half_pixel":
            return (out + 0.5) / axis.scale - 0.5
        case "pytorch_half_pixel":
            return (out + 0.5) / axis.scale - 0.5 if axis.result > 1 else np.zeros(1)
        case "half_pixel_symmetric":
            # the result is centred although its size was rounded
            exact = axis.scale * axis.size
            shift = axis.size / 2 * (1 - axis.result / exact)
            return shift + (out + 0.5) / axis.scale - 0.5
        case "align_corners":
            if axis.result == 1:
                return np.zeros(1)
            span = axis.scale * axis.size - 1
            return out * (axis.size - 1) / span
        case "asymmetric":
            return out / axis.scale
        case "tf_crop_and_resize":
            start, end = axis.roi
            if axis.result == 1:
                return np.array([(start + end) * (axis.size - 1) / 2])
            step = (end - start) * (axis.size - 1) / (axis.result - 1)
            return start * (axis.size - 1) + out * step
        case _:
            raise ValueError(f"coordinate_transformation_mode '{coordinates}' is not supported")


def _nearest(places: np.ndarray, rounding: str) -> np.ndarray:
    match rounding:
        case "floor":
            return np.floor(places)
        case "ceil":
            return np.ceil(places)
        case "round_prefer_floor":
            return np.ceil(places - 0.5)
        case "round_prefer_ceil":
            return np.floor(places + 0.5)
        case _:
            raise ValueError(f"nearest_mode '{rounding}' is not supported")


def _weights(node: Node, places: np.ndarray, axis: Axis, mode: str) -> np.ndarray:
    """The matrix `[result, size]` of interpolation weights."""
    antialias = bool(node.attribute("antialias", 0))
    stretch = min(axis.scale, 1.0) if antialias else 1.0
    cubic = node.attribute("cubic_coeff_a", -0.75)
    reach = (1 if mode == "linear" else 2) / stretch
    exclude = bool(node.attribute("exclude_outside", 0))
    weights = np.zeros((axis.result, axis.size))
    for row, place in enumerate(places):
        first, last = math.floor(place - reach) + 1, math.ceil(place + reach) - 1
        taps = np.arange(min(first, math.floor(place)), max(last, math.floor(place) + 1) + 1)
        distance = (taps - place) * stretch
        values = _triangle(distance) if mode == "linear" else _keys(distance, cubic)
        if exclude:
            values = np.where((taps >= 0) & (taps < axis.size), values, 0)
        if exclude or antialias:
            values = values / values.sum()
        np.add.at(weights[row], taps.clip(0, axis.size - 1), values)
    return weights


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(distance))


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (R. Keys, 1981)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _apply(node: Node, x: Expr, weights: np.ndarray, index: int) -> Expr:
    """Multiplies an axis by the matrix `weights` of shape `[result, size]`."""
    dtype = dtype_of(x)
    rank = len(shape_of(x))
    wide = x if is_float(dtype) else op.astype(x, "float32")
    matrix = constant(weights.T.astype(dtype if is_float(dtype) else "float32"))
    order = [*(i for i in range(rank) if i != index), index]
    moved = wide if index == rank - 1 else op.permute_dims(wide, order)
    product = op.matmul(moved, matrix)
    if index != rank - 1:
        product = op.permute_dims(product, [order.index(i) for i in range(rank)])
    return node.emit(product if is_float(dtype) else op.astype(op.round(product), dtype))


CONVERTERS: dict[str, Converter] = {"Resize": resize, "Upsample": resize}
