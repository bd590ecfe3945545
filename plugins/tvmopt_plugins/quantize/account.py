"""The account of quantization in the report: a line for each operator that was considered."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from tvmopt import QuantizedLayer
from tvmopt.quantization import QuantizationScheme
from tvmopt.rewriting import constant_value, is_op
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
        elif var in choice.between:
            found.append(QuantizedLayer(nodes, _op(value), "int8", scheme.activation))
        elif var in choice.floats:
            why = choice.floats[var]
            found.append(QuantizedLayer(nodes, _op(value), "float32", why=why))
    return found


def settled(layers: Sequence[QuantizedLayer], mod: tvm.IRModule) -> list[QuantizedLayer]:
    """The account after calibration, with the sizes of quantized weights.

    Args:
        layers: as `considered` has them.
        mod: with quantize and dequantize where there are integers.
    """
    sizes = {(name, op): size for name, op, size in _of_integers(Network.of(mod))}
    found: list[QuantizedLayer] = []
    for layer in layers:
        size = sizes.get(("|".join(layer.nodes), layer.op))
        if layer.dtype == "float32":
            found.append(layer)
        elif size is None:
            found.append(replace(layer, dtype="float32", scheme="", why=_NOT_CALIBRATED))
        else:
            found.append(replace(layer, bytes_int8=size or None))
    return found


def _of_integers(network: Network) -> Iterator[tuple[str, str, int]]:
    """Name, operator and bytes of the weight of what reads tensors that were quantized."""
    for var, value in network.values.items():
        made = [network.values.get(one) for one in relax.analysis.free_vars(value)]
        encoded = [one for one in made if is_op(one, "relax.dequantize")]
        if encoded and isinstance(value, relax.Call):
            constants = [(constant_value(one.args[0]), one) for one in encoded]
            yield (
                var.name,
                _op(value),
                sum(
                    array.nbytes + constant_value(one.args[1]).nbytes
                    for array, one in constants
                    if array is not None
                ),
            )


def _op(value: Any) -> str:
    return str(value.op.name).rpartition(".")[2]
