"""The import of one model, top to bottom."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import onnx
import tvm

from tvmopt.compiler.importer import dims, original
from tvmopt.compiler.importer.branches import resolve_branches
from tvmopt.compiler.importer.build import build_module
from tvmopt.compiler.importer.check import check_graph, check_opset, check_supported, check_valid
from tvmopt.compiler.importer.draft import Draft
from tvmopt.compiler.importer.fold import fold
from tvmopt.compiler.importer.functions import inline_local_functions, inline_schema_functions
from tvmopt.compiler.importer.infer import Types
from tvmopt.compiler.importer.names import name_nodes
from tvmopt.compiler.importer.quantized import expand_quantized
from tvmopt.compiler.importer.read import read_draft
from tvmopt.compiler.sample_inputs import input_ranges
from tvmopt.model import ModelSource, TensorSpec
from tvmopt.report import Remark


@dataclass(frozen=True)
class ImportedModel:
    """An ONNX model as a Relax module, and what connects the two.

    Attributes:
        module: one Relax function `main` with static shapes. Its parameters are the model's inputs
            in the file's order; each binding bears the name of the ONNX node that it computes.
        inputs: the model's inputs, by the file's own names.
        outputs: the model's outputs, by the file's own names; one name may stand there twice.
        remarks: what the import changed or noticed.
        source: the file, and what the user said of its dimensions.
        input_ranges: smallest and largest sensible value of the integer inputs, by name.
        node_outputs: name of the first output tensor of each node of the original graph, by node
            name.
    """

    module: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    remarks: tuple[Remark, ...]
    source: ModelSource
    input_ranges: Mapping[str, tuple[int, int]]
    node_outputs: Mapping[str, str]

    def original(self, extra_outputs: Sequence[str] = ()) -> onnx.ModelProto:
        """Reads the file again: the untouched graph, only with the input shapes filled in.

        Args:
            extra_outputs: tensors (values of `node_outputs`) that become outputs, after the model's
                own, so that a runtime shows what a layer computes.

        Raises:
            ModelError: the file is not there any more, or its weights exceed what one proto holds.
        """
        return original.read_original(self.source.path, self.inputs, self.outputs, extra_outputs)


def import_model(source: ModelSource) -> ImportedModel:
    """Turns an ONNX file into a Relax module with static shapes.

    Raises:
        ModelError: the file cannot be read, or the model cannot be compiled correctly.
        UsageError: a shape or dimension is given for something that the model does not have.
    """
    draft = read_draft(source.path)
    graph, shapes = deepcopy(draft.graph), {k: v.shape for k, v in draft.constants.items()}
    check_opset(draft)
    node_outputs = name_nodes(draft.graph)
    inline_local_functions(draft)
    check_graph(draft)
    dims.freeze(draft, source)
    check_valid(draft)
    types = _simplify(draft)
    while resolve_branches(draft):
        types = _simplify(draft)
    check_supported(draft)
    module, inputs, outputs = build_module(draft, types)
    ranges = input_ranges(graph, inputs, shapes)
    remarks = tuple(draft.remarks)
    return ImportedModel(module, inputs, outputs, remarks, source, ranges, node_outputs)


def _simplify(draft: Draft) -> Types:
    """Leaves operators that have converters, as far as there are, and folds constants."""
    expand_quantized(draft)
    inline_schema_functions(draft)
    return fold(draft)
