"""The ONNX graph while it is written: names, initializers and nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tvm import relax
from tvm.ir import GenericConst

from tvmopt import rewriting
from tvmopt.errors import ModelError

Names = str | tuple[str, ...]
"""The tensor that a variable stands for; several for a tuple."""


class OnnxDraft:
    """Nodes and initializers so far.

    Attributes:
        opset: version of the operators that are written.
        nodes: in an order in which they can be computed.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._constants: dict[GenericConst, str] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = set()

    def fresh(self, name: str) -> str:
        """A name for a tensor or a node that nothing had before, near to `name`."""
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate

    def node(self, kind: str, inputs: Sequence[str], output: str, name: str, **attrs: Any) -> str:
        """Writes a node of one output and returns that."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attrs))
        return output

    def constant(self, expr: GenericConst, name: str) -> str:
        """The initializer of a constant of the graph; one for all its uses."""
        if expr not in self._constants:
            array = rewriting.constant_value(expr)
            if array is None:
                raise ModelError(f"'{name}' is no tensor that ONNX can hold")
            self._constants[expr] = self.array(array, name)
        return self._constants[expr]

    def array(self, array: np.ndarray[Any, Any], name: str) -> str:
        """An initializer with the array's elements and dtype; small equal ones are one."""
        key = None
        if array.size <= 64:
            key = (array.dtype.name, array.shape, array.tobytes())
            if key in self._small:
                return self._small[key]
        name = self.fresh(name)
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self._initializers[name] = tensor
        if key is not None:
            self._small[key] = name
        return name

    def ints(self, values: Sequence[int], name: str) -> str:
        """An initializer of 64-bit integers: a shape, axes."""
        return self.array(np.array(values, np.int64), name)

    def without_unused(self, outputs: Sequence[str]) -> tuple[list[NodeProto], list[TensorProto]]:
        """The nodes and initializers that the outputs depend on."""
        used = set(outputs)
        kept: list[NodeProto] = []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                kept.append(node)
                used.update(node.input)
        tensors = [tensor for name, tensor in self._initializers.items() if name in used]
        return kept[::-1], tensors


class Site:
    """One binding while it is written: what a writer of an operator sees.

    Attributes:
        draft: where nodes go.
        call: the operator with its operands.
        name: the binding's name, the node's if one node is enough.
        output: the tensor that the binding defines.
    """

    def __init__(
        self,
        draft: OnnxDraft,
        call: relax.Call,
        name: str,
        output: str,
        graph: "Bindings",
    ) -> None:
        self.draft = draft
        self.call = call
        self.name = name
        self.output = output
        self.graph = graph

    @property
    def attrs(self) -> Any:
        """The operator's attributes."""
        return rewriting.attrs_of(self.call)

    @property
    def opset(self) -> int:
        """Version of the operators that are written."""
        return self.draft.opset

    def tensor(self, index: int) -> str:
        """The tensor of an operand."""
        return self.tensor_of(self.call.args[index], str(index))

    def tensor_of(self, expr: relax.Expr, role: str) -> str:
        """The tensor of any expression; a constant is named after this binding and its role."""
        if isinstance(expr, GenericConst):
            return self.draft.constant(expr, f"{self.name}.{role}")
        name = self.graph.names.get(expr) if isinstance(expr, relax.Var) else None
        if not isinstance(name, str):
            raise self.error(f"operand {role} is no tensor")
        return name

    def shape(self, index: int | None = None) -> list[int]:
        """The shape of an operand, or of the result."""
        shape = rewriting.shape_of(self.call if index is None else self.call.args[index])
        if shape is None:
            raise self.error("a shape is not static")
        return list(shape)

    def dtype(self, index: int | None = None) -> str:
        """The dtype of an operand, or of the result."""
        return rewriting.dtype_of(self.call if index is None else self.call.args[index])

    def last(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """The node that gives the binding's result."""
        return self.draft.node(kind, inputs, self.output, self.draft.fresh(self.name), **attrs)

    def step(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """A node on the way to the result, named `<binding>/<operator>`."""
        name = self.draft.fresh(f"{self.name}/{kind}")
        return self.draft.node(kind, inputs, name, name, **attrs)

    def scalar(self, value: float, dtype: str | None = None) -> str:
        """A constant without dimensions, by default in the dtype of the result."""
        array = np.asarray(value, dtype or self.dtype())
        return self.draft.array(array, f"{self.name}.{value:g}")

    def ints(self, values: Sequence[int], role: str) -> str:
        """A constant vector of 64-bit integers."""
        return self.draft.ints(values, f"{self.name}.{role}")

    def error(self, why: str) -> ModelError:
        """An error that names the binding and its operator."""
        kind = getattr(self.call.op, "name", type(self.call).__name__)
        return ModelError(f"node '{self.name}' ({kind}) cannot be written as ONNX: {why}")


class Bindings:
    """What the variables of the function are, and which tensors stand for them.

    Attributes:
        values: the value bound to each variable.
        uses: how many operands and results refer to each variable.
        names: the tensors of parameters and of what is written so far.
    """

    def __init__(self) -> None:
        self.values: dict[relax.Var, relax.Expr] = {}
        self.uses: dict[relax.Var, int] = {}
        self.names: dict[relax.Var, Names] = {}

    def producer(self, expr: relax.Expr | None) -> relax.Expr | None:
        """The value bound to a variable; None for parameters and constants."""
        return self.values.get(expr) if isinstance(expr, relax.Var) else None
