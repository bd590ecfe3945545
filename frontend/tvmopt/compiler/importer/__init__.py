"""ONNX in, Relax out: a strict pre-pass over the ONNX graph, then one converter per operator."""

from tvmopt.compiler.importer.imported import ImportedModel, import_model

__all__ = ["ImportedModel", "import_model"]
