"""The original ONNX model, run by ONNX Runtime where that takes it, else by `onnx.reference`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import onnx

from tvmopt.compiler.executor import Array
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import TvmoptError

if TYPE_CHECKING:
    from tvmopt.compiler.importer import ImportedModel


Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Computes tensors by name of inputs."""


class Reference(Protocol):
    """Something that runs the original model; `name` says what, with its version."""

    name: str

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named tensors: outputs of the model, or any other of its graph."""
        ...

    def showing(self, outputs: Sequence[str]) -> Run:
        """What computes the named tensors, made once for many inputs."""
        ...

    def run_other(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """Computes outputs of another model with the same inputs."""
        ...


def open_reference(imported: "ImportedModel") -> Reference:
    """The first runtime that loads the model.

    Raises:
        TvmoptError: none does; the model can still be compiled without verification.
    """
    reasons: list[str] = []
    for kind in (_OnnxRuntime, _OnnxReference):
        try:
            return kind(imported)
        except ImportError:
            continue
        except TvmoptError:
            raise
        except Exception as error:  # noqa: BLE001 - they raise anything; the next one may do
            reasons.append(f"{kind.title}: {_first_line(error)}")
    raise TvmoptError(
        f"nothing here runs the original model to compare with ({'; '.join(reasons)})",
        "compile with --no-verify",
    )


class _OnnxRuntime:
    title = "ONNX Runtime"

    def __init__(self, imported: "ImportedModel") -> None:
        import onnxruntime

        self.name = f"{self.title} {onnxruntime.__version__}"
        self._imported = imported
        self._session = _session(str(imported.source.path))
        self._own_outputs = {output.name for output in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return self.showing(outputs)(inputs)

    def showing(self, outputs: Sequence[str]) -> Run:
        session = self._session
        if not self._own_outputs.issuperset(outputs):
            session = _session(self._imported.original(outputs).SerializeToString())
        return _runner(session, outputs)

    def run_other(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        return _runner(_session(model.SerializeToString()), outputs)(inputs)


class _OnnxReference:
    title = "onnx.reference"

    def __init__(self, imported: "ImportedModel") -> None:
        self.name = f"{self.title} {onnx.__version__}"
        self._imported = imported
        self._own_outputs = {spec.name for spec in imported.outputs}
        self._evaluator = _evaluator(imported.original())

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return self.showing(outputs)(inputs)

    def showing(self, outputs: Sequence[str]) -> Run:
        evaluator = self._evaluator
        if not self._own_outputs.issuperset(outputs):
            evaluator = _evaluator(self._imported.original(outputs))
        return _runner(evaluator, outputs)

    def run_other(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        return _runner(_evaluator(model), outputs)(inputs)


def _runner(session: Any, outputs: Sequence[str]) -> Run:
    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))

    return run


def _session(model: str | bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = default_threads()
    # The original as written: fusions and fast approximations are what compilers are checked for.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _evaluator(model: onnx.ModelProto) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
