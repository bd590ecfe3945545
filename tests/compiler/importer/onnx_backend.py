"""Runs ONNX's backend tests: each case imported, compiled, run and compared in a child process."""

import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

Outcome = Literal["pass", "wrong", "refused", "failed", "crashed", "timeout"]
"""`refused` is an error with the node's name; `wrong` and `failed` would be bugs of ours."""

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

LEFT_OUT = re.compile(
    r"sequence|optional|string|strnorm|tfidf|regex|image_decoder|bernoulli|random|multinomial"
    r"|_training|adagrad|adam|momentum|gradient|ai_onnx_ml|preview|float8|float4|int4|int2|fp8"
    r"|FLOAT8|FLOAT4|INT4|INT2|e4m3|e5m2|e8m0|BFLOAT16|bfloat16|loop|scan"
)
"""Cases that are not about static tensors of types that compile."""

SHAPE_INPUTS = {
    "AffineGrid": {1},
    "BlackmanWindow": {0},
    "CenterCropPad": {1},
    "Clip": {1, 2},
    "Col2Im": {1, 2},
    "ConstantOfShape": {0},
    "CumProd": {1},
    "CumSum": {1},
    "DFT": {1, 2},
    "Dropout": {1, 2},
    "Expand": {1},
    "HammingWindow": {0},
    "HannWindow": {0},
    "MaxUnpool": {2},
    "OneHot": {1},
    "Pad": {1, 2, 3},
    "Range": {0, 1, 2},
    "Reshape": {1},
    "Resize": {1, 2, 3},
    "ReverseSequence": {1},
    "STFT": {1, 3},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Tile": {1},
    "TopK": {1},
    "Trilu": {1},
    "Unsqueeze": {1},
    "Upsample": {1},
}
"""Inputs that decide shapes; constants in real models, so the tests bind them."""


@dataclass(frozen=True)
class Case:
    """One test: a model, and inputs with the outputs expected for them."""

    name: str
    model: onnx.ModelProto
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    rtol: float
    atol: float


def cases(kinds: Iterable[str] = KINDS) -> Iterator[Case]:
    """The tensor-only cases of the onnx wheel."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = [test for kind in kinds for test in load_model_tests(kind=kind)]
    for test in tests:
        if LEFT_OUT.search(test.name):
            continue
        model = test.model or onnx.load(Path(test.model_dir) / "model.onnx")
        values = [*model.graph.input, *model.graph.output]
        if not all(value.type.HasField("tensor_type") for value in values):
            continue
        if any(domain.domain not in ("", "ai.onnx") for domain in model.opset_import):
            continue
        if test.data_sets is not None:
            inputs, outputs = test.data_sets[0]
        else:
            inputs, outputs = (_read_set(test.model_dir, kind) for kind in ("input", "output"))
        arrays = [*inputs, *outputs]
        if not all(isinstance(item, (np.ndarray, np.generic)) for item in arrays):
            continue
        yield Case(
            test.name,
            model,
            [np.asarray(item) for item in inputs],
            [np.asarray(item) for item in outputs],
            test.rtol,
            test.atol,
        )


def _read_set(folder: str, kind: str) -> list[np.ndarray]:
    files = Path(folder, "test_data_set_0").glob(f"{kind}_*.pb")
    ordered = sorted(files, key=lambda path: int(path.stem.split("_")[1]))
    return [numpy_helper.to_array(TensorProto.FromString(path.read_bytes())) for path in ordered]


def bound(case: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with shape-deciding inputs as constants, and the inputs that are left."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    initialized = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in initialized]
    deciding = _deciding(model.graph)
    feeds: dict[str, np.ndarray] = {}
    for value, array in zip(free, case.inputs, strict=False):
        if value.name in deciding:
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            model.graph.input.remove(value)
        else:
            feeds[value.name] = array
    return model, feeds


def _deciding(graph: onnx.GraphProto) -> set[str]:
    makers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    todo = [
        name
        for node in graph.node
        for index, name in enumerate(node.input)
        if name
        and (
            index in SHAPE_INPUTS.get(node.op_type, ())
            or (index == 1 and node.op_type.startswith("Reduce"))
        )
    ]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in makers and makers[name].op_type not in ("Shape", "Size"):
            todo += [item for item in makers[name].input if item]
    return found


def run_case(case: Case) -> tuple[Outcome, str]:
    """Imports, compiles with TVM's default pipeline, runs and compares one case."""
    import tvm
    from tvm import relax

    from tvmopt.compiler.importer import import_model
    from tvmopt.errors import TvmoptError
    from tvmopt.model import ModelSource

    model, feeds = bound(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        try:
            imported = import_model(ModelSource(path, shapes))
        except TvmoptError as error:
            return "refused", str(error)
    target = tvm.target.Target("llvm")
    pipeline = relax.get_default_pipeline(target)
    executable = tvm.compile(imported.module, target, relax_pipeline=pipeline)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments = [tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs]
    result = machine["main"](*arguments)
    results = [result] if hasattr(result, "numpy") else list(result)
    for actual, expected in zip(results, case.outputs, strict=True):
        array = actual.numpy()
        if array.dtype != expected.dtype or array.shape != expected.shape:
            return "wrong", f"{array.dtype}{array.shape}, not {expected.dtype}{expected.shape}"
        try:
            np.testing.assert_allclose(array, expected, rtol=case.rtol, atol=case.atol)
        except AssertionError as error:
            return "wrong", " ".join(str(error).split())[:200]
    return "pass", ""


def run_cases(chosen: list[Case], seconds: float = 60) -> dict[str, tuple[Outcome, str]]:
    """Runs cases in one forked child after another; a crash or hang costs only its own case."""
    results: dict[str, tuple[Outcome, str]] = {}
    todo = list(chosen)
    context = multiprocessing.get_context("fork")
    while todo:
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(todo, writer))
        child.start()
        writer.close()
        while todo:
            if not reader.poll(seconds):
                results[todo.pop(0).name] = ("timeout", f"more than {seconds} s")
                break
            try:
                name, outcome, detail = json.loads(reader.recv())
            except EOFError:
                results[todo.pop(0).name] = ("crashed", "the process died")
                break
            results[name] = (outcome, detail)
            todo.pop(0)
        if child.pid is not None and child.is_alive() and todo:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    return results


def _work(todo: list[Case], writer: Any) -> None:
    os.environ["TVM_NUM_THREADS"] = "1"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno())
    warnings.simplefilter("ignore")
    for case in todo:
        try:
            outcome, detail = run_case(case)
        except Exception as error:  # noqa: BLE001 - any failure is an outcome
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            outcome, detail = "failed", f"{type(error).__name__}: {lines[-1] if lines else ''}"
        writer.send(json.dumps([case.name, outcome, detail[:300]]))
