"""Quantization; ONNX wants the zero point in the dtype of the quantized tensor."""

from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.compiler.exporter.draft import Site
from tvmopt.rewriting import constant_value, dtype_of, shape_of


def quantize(site: Site) -> str:
    """`QuantizeLinear`."""
    inputs = site.tensor(0), *_parameters(site, site.dtype())
    return site.last("QuantizeLinear", *inputs, **_axis(site))


def dequantize(site: Site) -> str:
    """`DequantizeLinear`."""
    if site.dtype() != site.dtype(1):
        raise site.error(f"its result is {site.dtype()}, but its scale is {site.dtype(1)}")
    inputs = site.tensor(0), *_parameters(site, site.dtype(0))
    return site.last("DequantizeLinear", *inputs, **_axis(site))


def _parameters(site: Site, dtype: str) -> tuple[str, ...]:
    """The tensors of the scale and the zero point.

    An int32 tensor, a bias, has no zero point: it must be 0.
    """
    if dtype in ("int16", "uint16") and site.opset < 21:
        raise site.error(f"{dtype} needs operator set 21")
    scale, zero_point = site.call.args[1:]
    if dtype == "int32":
        values = constant_value(zero_point)
        if values is None or values.any():
            raise site.error("its zero point is not 0")
        return (_parameter(site, scale, "scale"),)
    return (
        _parameter(site, scale, "scale"),
        _zero_point(site, zero_point, dtype, shape_of(scale) or ()),
    )


def _zero_point(site: Site, expr: relax.Expr, dtype: str, shape: tuple[int, ...]) -> str:
    values = constant_value(expr)
    if values is not None:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise site.error(f"its zero point is outside of {dtype}")
        # ONNX wants one for each scale
        return site.draft.array(_broadcast(values, shape).astype(dtype), f"{site.name}.zero_point")
    if dtype_of(expr) != dtype:
        raise site.error(f"its zero point is {dtype_of(expr)}, not {dtype}")
    return _parameter(site, expr, "zero_point")


def _broadcast(values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    single = values.reshape(()) if values.size == 1 else values
    return np.broadcast_to(single, shape)


def _parameter(site: Site, expr: relax.Expr, role: str) -> str:
    if isinstance(expr, GenericConst):
        return site.draft.constant(expr, f"{site.name}.{role}")
    return site.tensor_of(expr, role)


def _axis(site: Site) -> dict[str, int]:
    return {"axis": int(site.attrs.axis)} if shape_of(site.call.args[1]) else {}


WRITERS = {"relax.dequantize": dequantize, "relax.quantize": quantize}
