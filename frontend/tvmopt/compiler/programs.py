"""ONNX models and packages as programs that show what their layers compute."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tvm import relax

from tvmopt.compiler.departure import layer_results
from tvmopt.compiler.executor import Array
from tvmopt.compiler.importer import import_model
from tvmopt.compiler.package import Package
from tvmopt.compiler.reference import open_reference
from tvmopt.compiler.sample_inputs import Range
from tvmopt.compiler.threads import default_threads
from tvmopt.model import ModelSource, TensorSpec
from tvmopt.quantization import BOUNDS
from tvmopt.report import Layer, Steps
from tvmopt.rewriting import dtype_of, shape_of

_IN_FEWER_BITS = frozenset({"int8", "uint8", "float16", "bfloat16"})

Shown = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Computes tensors of inputs; by the names of the nodes that make them."""


class Program(Protocol):
    """Something that computes the layers of a model.

    Attributes:
        title: the file and what runs it.
        inputs: the model's inputs.
        outputs: the model's outputs.
        ranges: smallest and largest sensible value of the integer inputs, by name.
        sizes: bytes of what each node computes, in the order of execution, by the node's name; only
            what can be shown.
        steps: what integers stand for, by node.
        is_exact: whether it computes in float32 throughout.
    """

    title: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, Range]
    sizes: Mapping[str, int]
    steps: Mapping[str, Steps]
    is_exact: bool

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        ...

    def showing(self, nodes: Sequence[str]) -> Shown:
        """What computes these nodes' tensors."""
        ...


class OnnxProgram:
    """An ONNX model, run by a reference."""

    def __init__(self, source: ModelSource) -> None:
        imported = import_model(source)
        self._reference = open_reference(imported)
        self._tensors = imported.node_outputs
        self.title = f"{source.path} ({self._reference.name})"
        self.inputs, self.outputs = imported.inputs, imported.outputs
        self.ranges = imported.input_ranges
        self.steps: Mapping[str, Steps] = {}
        blocks = imported.module["main"].body.blocks
        variables = [binding.var for block in blocks for binding in block.bindings]
        self.is_exact = not _IN_FEWER_BITS.intersection(map(dtype_of, variables))
        self.sizes: Mapping[str, int] = {
            var.name: _size_bytes(var) for var in variables if var.name in self._tensors
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._reference.run(inputs, list(dict.fromkeys(one.name for one in self.outputs)))

    def showing(self, nodes: Sequence[str]) -> Shown:
        show = self._reference.showing(list(dict.fromkeys(self._tensors[one] for one in nodes)))

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            tensors = show(inputs)
            return {node: tensors[self._tensors[node]] for node in nodes}

        return run


class PackageProgram:
    """A package: the very kernels, watched as they run."""

    def __init__(self, path: Path) -> None:
        self._package = Package.load(path)
        self.title = f"{path} ({self._package.target})"
        self.inputs, self.outputs = self._package.inputs, self._package.outputs
        self.ranges = self._package.manifest.input_ranges
        report = self._package.report
        self.steps: Mapping[str, Steps] = report.steps
        self._ends = _ends(report.layers)
        self.sizes: Mapping[str, int] = {
            node: report.layers[index].bytes_moved for node, index in self._ends.items()
        }
        self.is_exact = report.precision == "float32" and not self.steps

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._package.run(inputs)

    def showing(self, nodes: Sequence[str]) -> Shown:
        layers = self._package.report.layers
        wanted = {self._ends[node] for node in nodes}
        executor, threads = self._package.executor, default_threads()

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            found = layer_results(executor, layers, wanted, inputs, threads)
            return {node: self._plain(node, found[self._ends[node]]) for node in nodes}

        return run

    def _plain(self, node: str, array: Array) -> Array:
        """Without the types that only kernels have."""
        if array.dtype.kind == "V":  # bfloat16
            return array.astype(np.float32)
        steps, op = self.steps.get(node), self._package.report.layers[self._ends[node]].op
        if steps is not None and array.dtype == np.float32 and op.endswith("round"):
            return array.astype(steps.dtype)  # a kernel that leaves its integers in floats
        return array


def is_package(path: Path) -> bool:
    """Whether a file is named as a package."""
    return path.suffix == ".tvmpkg"


def open_program(source: ModelSource) -> Program:
    """A package, or an ONNX model with the shapes that are given.

    Raises:
        TvmoptError: it cannot be read, or not run here.
    """
    return PackageProgram(source.path) if is_package(source.path) else OnnxProgram(source)


def in_floats(array: Array, steps: Steps | None) -> Array | None:
    """What integers stand for; None where it is not known. Floats are themselves."""
    if array.dtype.kind == "f":
        return array
    if steps is None or array.dtype.name not in BOUNDS:
        return None
    shift = 128 if (steps.dtype, array.dtype.name) == ("int8", "uint8") else 0
    wide = array.astype(np.float64) - (steps.zero_point + shift)
    return np.asarray(wide * steps.scale, np.float32)


def _size_bytes(var: relax.Var) -> int:
    shape, dtype = shape_of(var), dtype_of(var)
    return 0 if shape is None else math.prod(shape) * np.dtype(dtype).itemsize


def _ends(layers: Sequence[Layer]) -> dict[str, int]:
    """The layer whose result is a node's: that which computes it last, and nothing after it."""
    found: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if layer.nodes:
            found.pop(layer.nodes[-1], None)
            found[layer.nodes[-1]] = index
    return found
