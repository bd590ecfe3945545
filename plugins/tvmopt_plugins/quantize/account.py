"""The account of quantization in the report: a line for each operator that was considered."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvmopt import QuantizedLayer
from tvmopt.quantization import QuantizationScheme
from tvmopt_plugins.quantize.choice import Choice
from tvmopt_plugins.quantize.network import Network, weight_of

_NOT_CALIBRATED = "its activation could not be calibrated"


def considered(
    network: Network, choice: Choice, scheme: QuantizationScheme
) -> list[QuantizedLayer]:
    """What was decided for each operator, in the order of execution."""
    granularity = "per channel" if scheme.per_channel else "per tensor"
    quantized = f"{scheme.activation} x {scheme.weight}, {granularity}"
    products = set(choice.products)
    found: list[QuantizedLayer] = []
    for var, value in network.values.items():
        nodes = tuple(var.name.split("|"))
        if var in products:
            size = weight_of(value).nbytes
            layer = QuantizedLayer(nodes, _op(value), "int8", quantized, bytes_float=size)
            found.append(layer)
        elif var in choice.floats:
            why = choice.floats[var]
            found.append(QuantizedLayer(nodes, _op(value), "float32", why=why))
    return found


def _op(value: Any) -> str:
    return str(value.op.name).rpartition(".")[2]


def settled(
    layers: Sequence[QuantizedLayer], sizes: Mapping[str, tuple[int, int]]
) -> list[QuantizedLayer]:
    """The account after calibration.

    Args:
        layers: as `considered` has them.
        sizes: by name of the product that was quantized, bytes of its weight before and after.
    """
    found: list[QuantizedLayer] = []
    for layer in layers:
        size = sizes.get("|".join(layer.nodes))
        if layer.dtype == "float32":
            found.append(layer)
        elif size is None:
            found.append(replace(layer, dtype="float32", scheme="", why=_NOT_CALIBRATED))
        else:
            found.append(replace(layer, bytes_float=size[0], bytes_int8=size[1]))
    return found
