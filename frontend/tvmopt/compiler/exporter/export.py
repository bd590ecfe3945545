"""One export, top to bottom."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from onnx import ModelProto, ValueInfoProto, helper
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.compiler.exporter.draft import Bindings, Names, OnnxDraft, Site
from tvmopt.compiler.exporter.ops import WRITERS, merged_biases
from tvmopt.compiler.exporter.ops.recurrent import write_recurrence
from tvmopt.errors import ModelError, UsageError
from tvmopt.model import TensorSpec
from tvmopt.rewriting import is_op
from tvmopt.rewriting.operands import operands

OPSETS = range(17, 22)
"""Versions of the operators of ai.onnx that can be written."""

_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def export_model(
    module: tvm.IRModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    opset: int = 17,
) -> ModelProto:
    """Writes `main` as an ONNX model that computes the same.

    A binding becomes a node of its name, or several whose last one bears it; constants become
    initializers of their dtype. A bias that is added after a convolution or product becomes its
    input; between `dequantize` and `quantize`, where runtimes want it in int32, a float one is
    rounded to that, by up to half of `x_scale * w_scale`.

    Args:
        module: Relax operators as they are before the stage LAYOUT.
        inputs: the model's inputs, in the order of the function's parameters.
        outputs: the model's outputs, in the order of its results.
        opset: version of ai.onnx, one of `OPSETS`.

    Raises:
        UsageError: another version.
        ModelError: an operator that cannot be written, with the node's name.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"ONNX of operator set {opset} cannot be written; {OPSETS[0]} to {OPSETS[-1]} can"
        )
    return _Export(module, inputs, outputs, opset).model()


class _Export:
    def __init__(
        self,
        module: tvm.IRModule,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        opset: int,
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.outputs = outputs
        self.draft = OnnxDraft(opset)
        self.graph = Bindings()
        self.function = module["main"]
        self.bindings = [b for block in self.function.body.blocks for b in block.bindings]

    def model(self) -> ModelProto:
        for spec in [*self.inputs, *self.outputs]:
            self.draft.fresh(spec.name)
        self._read()
        merged = merged_biases(self.graph)
        results = self._results()
        wanted = self._output_names(results)
        labels = self._labels()
        for binding in self.bindings:
            if binding.var not in merged:
                self._write(binding.var, binding.value, labels[binding.var], wanted)
        self._finish(results)
        return self._proto()

    def _read(self) -> None:
        uses: Counter[relax.Var] = Counter(operands(self.function.body.body))
        for binding in self.bindings:
            self.graph.values[binding.var] = binding.value
            uses.update(operands(binding.value))
        self.graph.uses = dict(uses)
        for param, spec in zip(self.function.params, self.inputs, strict=True):
            self.graph.names[param] = spec.name

    def _results(self) -> list[relax.Expr]:
        body = self.function.body.body
        found = self.graph.producer(body)
        body = found if isinstance(found, relax.Tuple) else body
        return list(body.fields) if isinstance(body, relax.Tuple) else [body]

    def _output_names(self, results: Sequence[relax.Expr]) -> Mapping[relax.Var, str]:
        """The outputs that nodes can give directly: the others are copies."""
        wanted: dict[relax.Var, str] = {}
        for result, spec in zip(results, self.outputs, strict=True):
            if isinstance(self.graph.producer(result), relax.Call):
                assert isinstance(result, relax.Var)
                wanted.setdefault(result, spec.name)
        return wanted

    def _labels(self) -> Mapping[relax.Var, str]:
        """Names of nodes: the last binding of a name bears it, those before it are numbered."""
        total = Counter(binding.var.name for binding in self.bindings)
        seen: Counter[str] = Counter()
        labels: dict[relax.Var, str] = {}
        for binding in self.bindings:
            name = binding.var.name
            seen[name] += 1
            labels[binding.var] = name if seen[name] == total[name] else f"{name}/{seen[name]}"
        return labels

    def _write(
        self, var: relax.Var, value: relax.Expr, label: str, wanted: Mapping[relax.Var, str]
    ) -> None:
        if isinstance(value, relax.Call):
            # ONNX keeps nodes and tensors apart: both bear the binding's name
            output = wanted.get(var) or self.draft.fresh(f"{label}.out")
            self.graph.names[var] = self._call(value, label, output)
        elif isinstance(value, relax.TupleGetItem):
            parts = self.graph.names[value.tuple_value]
            assert isinstance(parts, tuple)
            self.graph.names[var] = parts[value.index]
        elif isinstance(value, relax.Tuple):
            self.graph.names[var] = tuple(self._leaf(field, label) for field in value.fields)
        elif isinstance(value, relax.Var | GenericConst):
            self.graph.names[var] = self._leaf(value, label)
        elif not isinstance(value, relax.ShapeExpr):
            raise ModelError(f"node '{label}' is no operator that ONNX has")

    def _leaf(self, expr: relax.Expr, label: str) -> str:
        if isinstance(expr, GenericConst):
            return self.draft.constant(expr, label)
        name = self.graph.names[expr]
        assert isinstance(name, str)
        return name

    def _call(self, call: relax.Call, label: str, output: str) -> Names:
        site = Site(self.draft, call, label, output, self.graph)
        if is_op(call, "relax.call_tir"):
            return write_recurrence(site, self.module)
        write = WRITERS.get(getattr(call.op, "name", ""))
        if write is None:
            raise site.error("no operator of ONNX is known for it")
        return write(site)

    def _finish(self, results: Sequence[relax.Expr]) -> None:
        """Copies what is an output twice, or an input or a constant, too."""
        for result, spec in zip(results, self.outputs, strict=True):
            name = self._leaf(result, spec.name)
            if name != spec.name:
                label = self.draft.fresh(f"{spec.name}/Identity")
                self.draft.node("Identity", [name], spec.name, label)

    def _proto(self) -> ModelProto:
        nodes, tensors = self.draft.without_unused([spec.name for spec in self.outputs])
        graph = helper.make_graph(
            nodes,
            "main",
            [_value_info(spec) for spec in self.inputs],
            [_value_info(spec) for spec in self.outputs],
            tensors,
        )
        opset = self.draft.opset
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            producer_name="tvmopt",
            ir_version=_IR_VERSIONS[opset],
        )


def _value_info(spec: TensorSpec) -> ValueInfoProto:
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, elem_type, list(spec.shape))
