"""The first layer whose result departs from the original's, for the error message."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tvmopt.compiler.compare import compare, is_within, limit_for, unblocked
from tvmopt.compiler.executor import Array, Executor, as_numpy
from tvmopt.compiler.manifest import OutputError
from tvmopt.compiler.reference import Reference
from tvmopt.report import Layer

if TYPE_CHECKING:
    from tvmopt.compiler.executor import Tensor

_BATCH_BYTES = 128 << 20
"""What the results that are held at a time may have, on either side."""


@dataclass(frozen=True)
class Departure:
    """A layer, the original's tensor that it should compute, and how far it is off.

    `compared` counts the layers before it that agree.
    """

    layer: Layer
    tensor: str
    error: OutputError
    compared: int


def first_departure(
    executor: Executor,
    reference: Reference,
    layers: Sequence[Layer],
    node_outputs: Mapping[str, str],
    inputs: Mapping[str, Array],
    threads: int,
    least_limit: float = 0.0,
) -> Departure | None:
    """Compares layer after layer with the original; None if all that can be compared agree.

    A layer computes several ONNX nodes, and the last one's output is its result. Layers that
    compute none of the original's tensors, such as changes of layout, are passed over.

    Args:
        executor: the compiled model.
        reference: the original.
        layers: the kernel calls in order.
        node_outputs: the original's tensor by node.
        inputs: what both are run on.
        threads: for the compiled model.
        least_limit: errors up to this are no departure, whatever the dtype.
    """
    compared = 0
    for batch in _batches(layers, node_outputs):
        try:
            theirs = reference.run(inputs, list(dict.fromkeys(batch.values())))
        except Exception:  # noqa: BLE001 - a runtime that cannot show this tensor fails in any way
            continue
        ours = layer_results(executor, layers, set(batch), inputs, threads)
        for index, tensor in batch.items():
            original = theirs[tensor]
            mine = unblocked(ours[index], original.shape)
            if mine is not None and layers[index].outputs[0].startswith(("bfloat16", "float16")):
                mine = mine.astype(original.dtype)  # float32 that is stored in 16 bits
            if mine is None or mine.dtype != original.dtype:
                continue
            limit = max(limit_for(original.dtype), least_limit)
            error = compare(tensor, mine, original, limit)
            if not is_within(error):
                return Departure(layers[index], tensor, error, compared)
            compared += 1
    return None


def _batches(layers: Sequence[Layer], node_outputs: Mapping[str, str]) -> Iterator[dict[int, str]]:
    """Layers with a tensor to compare with, by their index, a bounded number of bytes at a time."""
    batch: dict[int, str] = {}
    size_bytes = 0
    for index, layer in enumerate(layers):
        tensor = node_outputs.get(layer.nodes[-1]) if layer.nodes else None
        if tensor is None:
            continue
        batch[index] = tensor
        size_bytes += layer.bytes_moved  # its outputs are at most this
        if size_bytes > _BATCH_BYTES:
            yield batch
            batch, size_bytes = {}, 0
    if batch:
        yield batch


def layer_results(
    executor: Executor,
    layers: Sequence[Layer],
    wanted: set[int],
    inputs: Mapping[str, Array],
    threads: int,
) -> dict[int, Array]:
    """Copies of the first result of each wanted layer, by its index, of one run."""
    kernels = {layer.kernel for layer in layers}
    results: dict[int, Array] = {}
    index = 0

    def keep(
        _func: object, name: str, is_before: int, _result: object, *arguments: "Tensor"
    ) -> None:
        nonlocal index
        if is_before or name not in kernels:
            return
        if index in wanted:
            # Results follow the operands; later kernels write over them, so they are copied.
            first = arguments[-len(layers[index].outputs)]
            results[index] = np.array(as_numpy(first))
        index += 1

    executor.run_instrumented(inputs, threads, keep)
    return results
