"""What a converter sees of the ONNX node that it converts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto
from tvm import relax
from tvm.ir import Expr
from tvm.ir.expr import GenericConst

from tvmopt import rewriting
from tvmopt.compiler.importer.draft import attribute, label
from tvmopt.errors import ModelError


@dataclass(frozen=True)
class Node:
    """One ONNX node with its inputs already in Relax.

    Attributes:
        proto: the ONNX node.
        opset: the version of the default operator set.
        inputs: tensors with static shapes; None where an optional input is left out.
        builder: normalizes expressions, which gives them their types.
        readers: operators that read the node's first output.
    """

    proto: NodeProto
    opset: int
    inputs: Sequence[Expr | None]
    builder: relax.BlockBuilder
    readers: frozenset[str] = frozenset()

    @property
    def num_outputs(self) -> int:
        """Outputs of the node, up to the last one that is used."""
        return len(self.proto.output)

    def uses_output(self, index: int) -> bool:
        """Whether the output has a name; unnamed optional outputs are not computed."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def __getitem__(self, index: int) -> Expr:
        value = self.get(index)
        if value is None:
            raise self.error(f"input {index} is missing")
        return value

    def get(self, index: int) -> Expr | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; strings are decoded."""
        return attribute(self.proto, name, default)

    def constant(self, index: int) -> np.ndarray | None:
        """The value of an input that is known at compile time; None where it is left out.

        Raises:
            ModelError: the input is there but computed at run time.
        """
        value = self.get(index)
        if value is None:
            return None
        if not isinstance(value, GenericConst):
            name = self.proto.input[index]
            raise self.error(f"input {index} ('{name}') must be a constant, but it is computed")
        return value.value.numpy()

    def ints(self, index: int) -> list[int] | None:
        """A constant input as a list of integers; None where it is left out."""
        value = self.constant(index)
        return None if value is None else [int(item) for item in value.reshape(-1)]

    def shape(self, index: int = 0) -> list[int]:
        """The static shape of an input."""
        return shape_of(self[index])

    def dtype(self, index: int = 0) -> str:
        """The element type of an input, by its NumPy name."""
        return dtype_of(self[index])

    def emit(self, expr: Expr) -> Expr:
        """Gives `expr` its type, so that `shape_of` and `dtype_of` work on it."""
        return self.builder.normalize(expr)

    def error(self, message: str) -> ModelError:
        """An error that names this node."""
        return ModelError(f"{label(self.proto)}: {message}")


Converter = Callable[[Node], Expr | Sequence[Expr]]
"""Converts a node to an expression per output."""


def shape_of(expr: Expr) -> list[int]:
    """The static shape of a normalized expression."""
    return [int(size) for size in expr.ty.shape]


def dtype_of(expr: Expr) -> str:
    """The element type of a normalized expression, by its NumPy name."""
    return str(expr.ty.dtype.dtype)


def constant(array: np.ndarray) -> Expr:
    """A constant of just the array's type; without the type, TVM narrows 64-bit ones to 32."""
    return rewriting.constant(array)


def scalar(value: float | bool, dtype: str) -> Expr:  # noqa: FBT001
    """A constant without dimensions."""
    return relax.const(np.asarray(value, dtype), dtype)


def is_float(dtype: str) -> bool:
    """Whether a type is a floating-point type."""
    return dtype.startswith(("float", "bfloat"))
