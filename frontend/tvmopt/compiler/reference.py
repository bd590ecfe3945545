"""The original ONNX model, run by ONNX Runtime where that takes it, else by `onnx.reference`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import onnx

from tvmopt.compiler.executor import Array
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import TvmoptError

if TYPE_CHECKING:
    from tvmopt.compiler.importer import ImportedModel


class Reference(Protocol):
    """Something that runs the original model; `name` says what, with its version."""

    name: str

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named tensors: outputs of the model, or any other of its graph."""
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
        session = self._session
        if not self._own_outputs.issuperset(outputs):
            session = _session(self._imported.original(outputs).SerializeToString())
        values = session.run(list(outputs), dict(inputs))
        return dict(zip(outputs, values, strict=True))

    def run_other(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        values = _session(model.SerializeToString()).run(list(outputs), dict(inputs))
        return dict(zip(outputs, values, strict=True))


class _OnnxReference:
    title = "onnx.reference"

    def __init__(self, imported: "ImportedModel") -> None:
        self.name = f"{self.title} {onnx.__version__}"
        self._imported = imported
        self._own_outputs = {spec.name for spec in imported.outputs}
        self._evaluator = _evaluator(imported.original())

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        evaluator = self._evaluator
        if not self._own_outputs.issuperset(outputs):
            evaluator = _evaluator(self._imported.original(outputs))
        values = evaluator.run(list(outputs), dict(inputs))
        return dict(zip(outputs, values, strict=True))

    def run_other(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        values = _evaluator(model).run(list(outputs), dict(inputs))
        return dict(zip(outputs, values, strict=True))


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
