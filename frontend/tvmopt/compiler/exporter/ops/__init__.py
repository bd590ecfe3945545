"""How each Relax operator is written in ONNX."""

from collections.abc import Callable, Mapping

from tvmopt.compiler.exporter.draft import Names, Site
from tvmopt.compiler.exporter.ops import (
    activation,
    convolution,
    elementwise,
    image,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    reduction,
)
from tvmopt.compiler.exporter.ops.bias import merged_biases

__all__ = ["WRITERS", "merged_biases"]

WRITERS: Mapping[str, Callable[[Site], Names]] = {
    **activation.WRITERS,
    **convolution.WRITERS,
    **elementwise.WRITERS,
    **image.WRITERS,
    **matmul.WRITERS,
    **movement.WRITERS,
    **normalization.WRITERS,
    **pooling.WRITERS,
    **quantization.WRITERS,
    **reduction.WRITERS,
}
"""Writers by the name of the Relax operator; each returns the tensors that it defines."""
