"""Sums of a convolution or product and a bias, which ONNX has as one operator."""

from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.compiler.exporter.draft import Bindings, Site
from tvmopt.compiler.exporter.ops.convolution import attributes
from tvmopt.rewriting import attrs_of, constant_value, dtype_of, is_op, shape_of

_CONVOLUTIONS = tuple(f"relax.nn.conv{rank}d" for rank in (1, 2, 3))
_TRANSPOSED = tuple(f"relax.nn.conv{rank}d_transpose" for rank in (1, 2, 3))


def merged_biases(graph: Bindings) -> AbstractSet[relax.Var]:
    """The convolutions and products that are written where their bias is added."""
    found: set[relax.Var] = set()
    for value in graph.values.values():
        if is_op(value, "relax.add"):
            merged = _parts(value, graph)
            if merged is not None:
                found.add(merged[0])
    return found


def write_with_bias(site: Site) -> str | None:
    """Writes a convolution or product with its bias; None where the sum is another one."""
    parts = _parts(site.call, site.graph)
    if parts is None:
        return None
    product_var, bias = parts
    call = site.graph.values[product_var]
    assert isinstance(call, relax.Call)
    product = Site(site.draft, call, site.name, site.output, site.graph)
    vector = _int32_bias(product, bias) or _vector(site, bias)
    inputs = product.tensor(0), product.tensor(1), vector
    if is_op(call, "relax.matmul"):
        return site.last("Gemm", *inputs)
    attrs = attributes(product)
    if is_op(call, *_TRANSPOSED):
        attrs["output_padding"] = [int(size) for size in product.attrs.output_padding]
        return site.last("ConvTranspose", *inputs, **attrs)
    return site.last("Conv", *inputs, **attrs)


def _parts(call: relax.Call, graph: Bindings) -> tuple[relax.Var, relax.Expr] | None:
    """The variable of the convolution or product, and what is added per channel."""
    for product, bias in (call.args, reversed(call.args)):
        source = graph.producer(product)
        if not isinstance(product, relax.Var) or graph.uses.get(product) != 1:
            continue
        if not is_op(source, *_CONVOLUTIONS, *_TRANSPOSED, "relax.matmul"):
            continue
        if dtype_of(source) != "float32" or not _is_per_channel(source, bias):
            continue
        if _vector_of(bias, graph) is not None:
            return product, bias
    return None


def _is_per_channel(product: relax.Call, bias: relax.Expr) -> bool:
    shape, found = shape_of(product), shape_of(bias)
    if shape is None or found is None or len(found) > len(shape):
        return False
    if is_op(product, "relax.matmul"):
        plain = all(len(shape_of(arg) or ()) == 2 for arg in product.args)
        return plain and found in ((shape[1],), (1, shape[1]))
    channels = [1] * len(shape)
    channels[1] = shape[1]
    return [1] * (len(shape) - len(found)) + list(found) == channels


def _vector_of(bias: relax.Expr, graph: Bindings) -> relax.Expr | np.ndarray[Any, Any] | None:
    """The bias as a vector: an array, or a tensor that a reshape made broadcast."""
    array = constant_value(bias)
    if array is not None:
        return array.reshape(-1)
    if len(shape_of(bias) or ()) == 1:
        return bias
    source = graph.producer(bias)
    if is_op(source, "relax.reshape", "relax.expand_dims"):
        inner = source.args[0]
        return inner if len(shape_of(inner) or ()) == 1 else None
    return None


def _vector(site: Site, bias: relax.Expr) -> str:
    vector = _vector_of(bias, site.graph)
    if isinstance(vector, np.ndarray):
        return site.draft.array(vector, f"{site.name}.bias")
    assert vector is not None
    return site.tensor_of(vector, "bias")


def _int32_bias(product: Site, bias: relax.Expr) -> str | None:
    """A constant bias in steps of the product's scales; None where those are not constant.

    ONNX Runtime computes a quantized convolution in integers only if its bias is quantized so.
    """
    values = constant_value(bias)
    x, weight = (product.graph.producer(arg) for arg in product.call.args)
    axis = 0 if is_op(product.call, *_CONVOLUTIONS) else 1
    if values is None or not is_op(x, "relax.dequantize") or not is_op(weight, "relax.dequantize"):
        return None
    x_scale, scale = constant_value(x.args[1]), constant_value(weight.args[1])
    if x_scale is None or scale is None or x_scale.ndim:
        return None
    vector = values.reshape(-1)
    if scale.ndim and (attrs_of(weight).axis != axis or scale.shape != vector.shape):
        return None
    steps = np.asarray(x_scale * scale, np.float32)
    quantized = np.rint(vector / steps)
    if not (np.abs(quantized) < np.iinfo(np.int32).max).all():
        return None
    name = product.draft.array(quantized.astype(np.int32), f"{product.name}.bias")
    step = product.draft.array(steps, f"{product.name}.bias_scale")
    return product.step("DequantizeLinear", name, step, **({"axis": 0} if steps.ndim else {}))
