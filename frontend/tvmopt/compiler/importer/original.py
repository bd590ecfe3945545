"""The original model for verification: as it is on disk, only with static input shapes."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from tvmopt.compiler.importer.names import name_nodes
from tvmopt.compiler.importer.read import PROTOBUF_LIMIT, read_proto, tensor_value
from tvmopt.errors import ModelError
from tvmopt.model import TensorSpec


def read_original(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    extra_outputs: Sequence[str] = (),
) -> ModelProto:
    """Reads `path` with its external data, fills in the shapes and adds outputs.

    Raises:
        ModelError: unreadable, or with more external data than one proto holds.
    """
    model = read_proto(path)
    name_nodes(model.graph)
    shapes = {spec.name: spec.shape for spec in (*inputs, *outputs)}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    del model.graph.value_info[:]
    present = {value.name for value in model.graph.output}
    for name in extra_outputs:
        if name not in present:
            model.graph.output.append(ValueInfoProto(name=name))
            present.add(name)
    _load_external(model, path.parent)
    return model


def _set_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    proto = value.type.tensor_type.shape
    del proto.dim[:]
    proto.SetInParent()
    for size in shape:
        proto.dim.add().dim_value = size


def _load_external(model: ModelProto, folder: Path) -> None:
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    values = {tensor.name: tensor_value(tensor, folder) for tensor in external}
    total = sum(value.nbytes for value in values.values())
    if total > PROTOBUF_LIMIT:
        raise ModelError(
            f"the original model's weights have {total / 2**30:.1f} GiB, more than can be loaded "
            "to compare with",
            "compile with --no-verify",
        )
    for tensor in external:
        tensor.raw_data = values[tensor.name].tobytes()
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
