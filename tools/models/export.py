"""Export to ONNX as all models here are written."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 20


def write_onnx(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    path: Path,
) -> None:
    """Writes the file for the shapes of `inputs`, under a temporary name first."""
    partial = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            inputs,
            partial,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            external_data=False,
            verbose=False,
        )
    partial.replace(path)
