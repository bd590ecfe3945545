"""Builds the Relax function from the prepared graph, one binding or more per ONNX node."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from onnx import GraphProto, NodeProto, TensorProto, helper
from tvm import relax
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import onnx_input

from tvmopt.compiler.importer.draft import Draft, label
from tvmopt.compiler.importer.infer import Types
from tvmopt.compiler.importer.node import Node, constant, dtype_of, shape_of
from tvmopt.compiler.importer.ops import CONVERTERS, GUARDS, TVM_CONVERTERS
from tvmopt.errors import ModelError, TvmoptError
from tvmopt.model import TensorSpec

DTYPES = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Element types that compile; TVM's casts to and from the 8-bit floats are wrong."""

Built = tuple[tvm.IRModule, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def build_module(draft: Draft, types: Types) -> Built:
    """Converts the graph, consuming `draft.constants` as it goes.

    Returns:
        The module with its function `main`, the inputs and the outputs.

    Raises:
        ModelError: an operator that cannot be converted, with the node's name.
    """
    return _Builder(draft, types).build()


class _Builder:
    """The state of one conversion: what is known by tensor name, and the bindings so far."""

    def __init__(self, draft: Draft, types: Types) -> None:
        self.draft = draft
        self.types = types
        self.values: dict[str, Expr] = {}
        self.bindings: list[relax.Binding] = []
        self.blocks = relax.BlockBuilder()
        self.readers = _readers(draft.graph)
        self.empty: set[str] = set()

    def build(self) -> Built:
        graph = self.draft.graph
        inputs = tuple(self._spec(value.name, "input") for value in graph.input)
        params = [relax.Var(s.name, relax.TensorType(s.shape, s.dtype)) for s in inputs]
        self.values = dict(zip((spec.name for spec in inputs), params, strict=True))
        uses = _count_uses(graph.node)
        for node in graph.node:
            self._convert(node)
            for name in node.input:  # a weight that is not needed again is freed
                uses[name] = uses.get(name, 0) - 1
                if uses[name] == 0:
                    self.draft.constants.pop(name, None)
        results = [self._value(value.name) for value in graph.output]
        for value, result in zip(graph.output, results, strict=True):
            if 0 in shape_of(result):
                raise ModelError(f"output '{value.name}' has no elements: {shape_of(result)}")
        outputs = tuple(
            TensorSpec(value.name, tuple(shape_of(result)), dtype_of(result))
            for value, result in zip(graph.output, results, strict=True)
        )
        return self._module(params, results), inputs, outputs

    def _spec(self, name: str, kind: str) -> TensorSpec:
        found = self.types[name]
        dtype = _dtype(found.elem_type)
        if dtype not in DTYPES:
            raise ModelError(f"{kind} '{name}' has the element type {dtype}: not supported")
        assert found.shape is not None
        return TensorSpec(name, found.shape, dtype)

    def _module(self, params: Sequence[relax.Var], results: Sequence[Expr]) -> tvm.IRModule:
        """Puts the bindings into a function; an output's variable must not be a dataflow one."""
        inner = {binding.var for binding in self.bindings}
        public = {
            value: relax.Var(value.name, value.ty)
            for value in dict.fromkeys(results)
            if isinstance(value, relax.Var) and value in inner
        }
        bindings = [_replaced(binding, public) for binding in self.bindings]
        leaves = [_replace(value, public) for value in results]
        body = leaves[0] if len(leaves) == 1 else relax.Tuple(leaves)
        body = self.blocks.normalize(body)
        blocks = [relax.DataflowBlock(bindings)] if bindings else []
        sequence = relax.SeqExpr(blocks, body)
        relax.expr._update_type(sequence, body.ty)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        function = relax.Function(list(params), sequence, body.ty)
        function = function.with_attr("global_symbol", "main")
        module = self.blocks.get()
        module["main"] = function.with_attr("num_input", len(params))
        relax.analysis.well_formed(module)  # raises when it is not
        return module

    def _value(self, name: str) -> Expr:
        if name not in self.values:
            array = self.draft.constants[name]
            dtype = array.dtype.name
            if dtype not in DTYPES:
                raise ModelError(f"constant '{name}' has the element type {dtype}: not supported")
            self.values[name] = constant(array)
        return self.values[name]

    def _convert(self, proto: NodeProto) -> None:
        for name in proto.output:
            self._check_dtype(proto, name)
        inputs = [self._value(name) if name else None for name in proto.input]
        readers = self.readers.get(proto.output[0], frozenset())
        node = Node(proto, self.draft.opset, inputs, self.blocks, readers)
        self.blocks._begin_dataflow_block()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                results = [self._emit(result) for result in _call(node)]
            except TvmoptError:
                raise
            except Exception as error:
                raise node.error(f"cannot be converted: {_reason(error)}") from error
            finally:
                block = self.blocks._end_block()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        for message in dict.fromkeys(str(item.message) for item in caught):
            self.draft.remark("analysis", proto.name, message)
        results = self._without_empty(node, results)
        renamed: dict[relax.Var, relax.Var] = {}
        for binding in block.bindings:
            value = _replace(binding.value, renamed)
            renamed[binding.var] = relax.DataflowVar(proto.name, binding.var.ty)
            self.bindings.append(relax.VarBinding(renamed[binding.var], value))
        if len(results) < len(proto.output):
            missing = [name for name in list(proto.output)[len(results) :] if name]
            if missing:
                raise node.error(f"its output '{missing[0]}' is not supported")
        for name, result in zip(proto.output, results, strict=False):
            if name:
                self.values[name] = self._checked(node, name, _replace(result, renamed))
                if 0 in shape_of(self.values[name]):
                    self.empty.add(name)

    def _without_empty(self, node: Node, results: list[Expr]) -> list[Expr]:
        """Values without elements become constants: only `Concat`, which drops them, reads them."""
        # constants are something else: empty lists of axes, an empty region of interest
        reads_empty = any(name in self.empty for name in node.proto.input)
        if reads_empty and node.proto.op_type != "Concat":
            for result in results:
                if 0 not in shape_of(result):
                    raise node.error("it computes from a tensor without elements: not supported")
        return [
            constant(np.zeros(shape_of(result), dtype_of(result)))
            if isinstance(result.ty, relax.TensorType) and 0 in shape_of(result)
            else result
            for result in results
        ]

    def _emit(self, result: Expr) -> Expr:
        if isinstance(result, (relax.Var, GenericConst)):
            return result
        if isinstance(result, relax.ShapeExpr):  # static, as every shape is
            return relax.const([int(size) for size in result.values], "int64")
        if isinstance(result, (tvm.tirx.IntImm, tvm.tirx.FloatImm)):
            return relax.const(result.value, str(result.ty.dtype))
        return self.blocks.emit(result)

    def _check_dtype(self, proto: NodeProto, name: str) -> None:
        if name in self.types:
            dtype = _dtype(self.types[name].elem_type)
            if dtype not in DTYPES:
                raise ModelError(
                    f"{label(proto)}: its output '{name}' has the element type {dtype}: "
                    "not supported"
                )

    def _checked(self, node: Node, name: str, value: Expr) -> Expr:
        """Refuses a value whose type is not what ONNX says: a wrong conversion, told early."""
        if not isinstance(value.ty, relax.TensorType):
            raise node.error(f"its output '{name}' is no tensor")
        if not isinstance(value.ty.shape, relax.ShapeExpr) or not all(
            isinstance(size, tvm.tirx.IntImm) for size in value.ty.shape.values
        ):
            raise node.error(f"the shape of its output '{name}' is not static")
        expected = self.types.get(name)
        shape, dtype = tuple(shape_of(value)), dtype_of(value)
        if expected is None:
            return value
        wanted_dtype = _dtype(expected.elem_type)
        if dtype != wanted_dtype or expected.shape not in (None, shape):
            raise node.error(
                f"its output '{name}' would be {dtype}{list(shape)}, but ONNX says "
                f"{wanted_dtype}{list(expected.shape or [])}"
            )
        return value


def _call(node: Node) -> list[Expr]:
    """The node's outputs, by our converter or else by TVM's."""
    convert = CONVERTERS.get(node.proto.op_type)
    result = convert(node) if convert else _call_tvm(node)
    if isinstance(result, Expr):
        result = node.emit(result) if not isinstance(result, relax.Tuple) else result
        if isinstance(result, relax.Tuple):
            return list(result.fields)
        if isinstance(result.ty, relax.TupleType):
            whole = node.builder.emit(result)
            return [relax.TupleGetItem(whole, i) for i in range(len(result.ty.fields))]
        return [result]
    return list(result)


def _call_tvm(node: Node) -> Expr:
    guard = GUARDS.get(node.proto.op_type)
    if guard is not None:
        guard(node)
    converter = TVM_CONVERTERS[node.proto.op_type].get_converter(node.opset)
    attributes = {item.name: helper.get_attribute_value(item) for item in node.proto.attribute}
    attributes["tvm_custom"] = {"name": node.proto.name, "num_outputs": node.num_outputs}
    return converter(node.builder, onnx_input(node.inputs), attributes, [{}, {}])


def _readers(graph: GraphProto) -> dict[str, frozenset[str]]:
    readers: dict[str, set[str]] = {value.name: {"output"} for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {name: frozenset(kinds) for name, kinds in readers.items()}


def _count_uses(nodes: Sequence[NodeProto]) -> dict[str, int]:
    uses: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    return uses


def _dtype(elem_type: int) -> str:
    try:
        return helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        return TensorProto.DataType.Name(elem_type).lower()


def _reason(error: Exception) -> str:
    """The line of an exception that says why; TVM's carry tracebacks of C++ in their text."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _replaced(binding: relax.Binding, renamed: Mapping[relax.Var, relax.Var]) -> relax.VarBinding:
    return relax.VarBinding(renamed.get(binding.var, binding.var), _replace(binding.value, renamed))


def _replace(expr: Expr, renamed: Mapping[relax.Var, relax.Var]) -> Expr:
    """`expr`, a normalized value, with variables replaced."""
    if isinstance(expr, relax.Var):
        return renamed.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_replace(field, renamed) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_replace(expr.tuple_value, renamed), expr.index)
    if isinstance(expr, tvm.ir.Call):
        args = [_replace(arg, renamed) for arg in expr.args]
        return tvm.ir.Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    return expr
