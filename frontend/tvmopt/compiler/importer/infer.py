"""Shapes and element types of every tensor, by ONNX's own inference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TypeProto, ValueInfoProto, helper, numpy_helper, shape_inference

from tvmopt.compiler.importer.draft import Draft
from tvmopt.errors import ModelError

SMALL = 1024
"""Elements up to which the inference sees a constant's value: it needs those of shapes and axes."""


@dataclass(frozen=True)
class TensorType:
    """What inference found; `shape` is None unless every dimension is known."""

    elem_type: int
    shape: tuple[int, ...] | None

    def proto(self) -> TypeProto:
        """The same as ONNX writes it."""
        return helper.make_tensor_type_proto(self.elem_type, self.shape)


Types = Mapping[str, TensorType]


def infer(draft: Draft) -> Types:
    """Types of all tensors of the draft's main graph; those that ONNX cannot tell are left out.

    Raises:
        ModelError: the graph contradicts itself, such as adding tensors of unlike shapes.
    """
    model = with_constants(draft)
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # noqa: BLE001 - onnx raises RuntimeError and its own InferenceError
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"the model's shapes do not fit together: {reason}") from None
    types = {
        name: TensorType(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in draft.constants.items()
    }
    graph = inferred.graph
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.name in types and types[value.name].shape is not None:
            continue  # an output may be an input or a constant
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = _type(value)
    return types


def with_constants(draft: Draft) -> ModelProto:
    """The draft as one light model: small constants as initializers, others as typed inputs."""
    model = ModelProto()
    model.CopyFrom(draft.model)
    graph = model.graph
    model.ir_version = max(model.ir_version, 4)  # initializers need not be inputs
    for name, value in draft.constants.items():
        if value.size <= SMALL:
            graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            )
        else:
            elem_type = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.input.append(helper.make_tensor_value_info(name, elem_type, value.shape))
    for value in graph.output:  # the file's shapes may name dimensions that are frozen now
        value.type.tensor_type.ClearField("shape")
    return model


def _type(value: ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = list(tensor.shape.dim)
    if not all(dim.HasField("dim_value") for dim in dims):
        return TensorType(tensor.elem_type, None)
    return TensorType(tensor.elem_type, tuple(dim.dim_value for dim in dims))
