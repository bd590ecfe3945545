"""Relax -> ONNX: writes the graph of plain operators, as it is before the stage LAYOUT."""

from tvmopt.compiler.exporter.export import OPSETS, export_model
from tvmopt.compiler.exporter.save import save_model

__all__ = ["OPSETS", "export_model", "save_model"]
