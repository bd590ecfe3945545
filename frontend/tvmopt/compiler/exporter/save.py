"""Writes an ONNX model to disk; weights beyond what one protobuf file holds go beside it."""

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from tvmopt.compiler.output import write_errors

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can have."""

_GRAPH_BYTES = 64 * 2**20
"""Room for everything but the weights."""


def save_model(model: ModelProto, path: Path, *, limit: int = PROTOBUF_LIMIT) -> None:
    """Writes `path`, and for weights of more than `limit` bytes also `<path>.data`.

    Both appear under their names when they are complete.

    Raises:
        TvmoptError: the files cannot be written.
    """
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    with (
        write_errors(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name,
    ):
        folder = Path(name)
        if weights + _GRAPH_BYTES <= limit:
            (folder / path.name).write_bytes(model.SerializeToString())
        else:
            data = f"{path.name}.data"
            onnx.save(
                model,
                folder / path.name,
                save_as_external_data=True,
                all_tensors_to_one_file=True,
                location=data,
                size_threshold=1024,
                convert_attribute=False,
            )
            onnx.external_data_helper.load_external_data_for_model(model, str(folder))
            (folder / data).replace(path.parent / data)
        (folder / path.name).replace(path)
