"""Reads an ONNX file and sets its constants apart from its graph, without copies to spare."""

from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from tvmopt.compiler.importer.constants import take_constants
from tvmopt.compiler.importer.draft import Draft
from tvmopt.errors import ModelError

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can have."""

NOT_ONNX = {
    b"PK\x03\x04": "a zip archive (perhaps a PyTorch checkpoint)",
    b"version https://git-lfs": "a Git LFS pointer",
    b"\x89HDF": "an HDF5 file (perhaps a Keras model)",
    b"\x7fELF": "an executable or library",
    b"{": "JSON or text",
    b"<": "XML or HTML",
}
"""What a file is whose first bytes are these."""

PACKED_TYPES = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)


def read_draft(path: Path) -> Draft:
    """Reads `path` for import.

    Raises:
        ModelError: it is missing, not an ONNX model, damaged, or lacks its external data.
    """
    model = read_proto(path)
    constants = {
        tensor.name: tensor_value(tensor, path.parent) for tensor in model.graph.initializer
    }
    light = _without_weights(model, constants)
    draft = Draft(light, constants)
    listed = [value.name for value in model.graph.input if value.name in constants]
    if listed:
        draft.remark(
            "analysis",
            "",
            f"initializers listed as inputs are taken as constants: {_names(listed)}",
        )
    del model  # frees the weights' second copy
    take_constants(draft)
    return draft


def read_proto(path: Path) -> ModelProto:
    """Parses the file; external data stays where it is.

    Raises:
        ModelError: each kind of unreadable file has its own.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelError(f"'{path}' is a directory, not an ONNX file", _inside(path))
        if size == 0:
            raise ModelError(f"'{path}' is empty")
        if size > PROTOBUF_LIMIT:
            raise ModelError(
                f"'{path}' has {size / 2**30:.1f} GiB, more than a protobuf file can hold (2 GiB)",
                "save it with its weights as external data: "
                "onnx.save(model, path, save_as_external_data=True)",
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no file '{path}'") from None
    except PermissionError:
        raise ModelError(f"'{path}' may not be read: permission denied") from None
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}") from None
    try:
        model = ModelProto.FromString(data)
    except (DecodeError, RuntimeError):
        raise _damaged(path, data) from None
    if not model.HasField("graph") or not model.ir_version:
        raise _damaged(path, data)
    return model


def _damaged(path: Path, data: bytes) -> ModelError:
    for magic, kind in NOT_ONNX.items():
        if data.startswith(magic):
            return ModelError(f"'{path}' is not an ONNX model but {kind}")
    if data[:1] == b"\x08":  # field 1 of a ModelProto, ir_version, comes first
        return ModelError(
            f"'{path}' is a truncated or damaged ONNX model", "copy or export the file again"
        )
    return ModelError(f"'{path}' is not an ONNX model")


def _inside(path: Path) -> str | None:
    found = sorted(path.glob("*.onnx"))
    return f"did you mean '{found[0]}'?" if found else None


def _names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _without_weights(model: ModelProto, constants: dict[str, np.ndarray]) -> ModelProto:
    """The model without initializers; a new proto, since a proto's memory is freed as a whole."""
    graph = model.graph
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"sparse initializers are not supported, such as '{name}'")
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.CopyFrom(
        GraphProto(
            name=graph.name or "main",
            node=graph.node,
            input=[value for value in graph.input if value.name not in constants],
            output=graph.output,
        )
    )
    return light


def tensor_value(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The value of a tensor, external or not, without a copy where its format allows.

    Raises:
        ModelError: its external data are missing, outside the model's folder, or too short.
    """
    shape = tuple(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external_value(tensor, folder)
    if tensor.data_type in (TensorProto.STRING, *PACKED_TYPES) or not tensor.HasField("raw_data"):
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(f"tensor '{tensor.name}' cannot be read: {error}") from None
    data = np.frombuffer(tensor.raw_data, _dtype(tensor))
    if data.size != int(np.prod(shape, dtype=np.int64)):
        raise ModelError(
            f"tensor '{tensor.name}' has {data.size} elements where its shape "
            f"{list(shape)} wants {int(np.prod(shape, dtype=np.int64))}",
            "the file is damaged; export it again",
        )
    return data.reshape(shape)


def _external_value(tensor: TensorProto, folder: Path) -> np.ndarray:
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    path = folder / location
    inside = path.resolve().is_relative_to(folder.resolve())
    if not location or Path(location).is_absolute() or not inside:
        raise ModelError(
            f"tensor '{tensor.name}' has its data at '{location}', outside the model's folder",
            "external data must lie beside or below the model file",
        )
    if not path.is_file():
        raise ModelError(
            f"the external data '{location}' of tensor '{tensor.name}' are missing",
            f"put the file at '{path}'",
        )
    if tensor.data_type in PACKED_TYPES:
        raise ModelError(f"tensor '{tensor.name}' has 4-bit elements, which are not supported")
    dtype, shape = _dtype(tensor), tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    offset = int(info.get("offset", "0"))
    if offset + count * dtype.itemsize > path.stat().st_size:
        raise ModelError(
            f"the external data '{location}' are too short for tensor '{tensor.name}'",
            "the file is damaged or belongs to another model",
        )
    if count == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def _dtype(tensor: TensorProto) -> np.dtype:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        raise ModelError(
            f"tensor '{tensor.name}' has the unknown element type {tensor.data_type}"
        ) from None
