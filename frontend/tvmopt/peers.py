"""ONNX Runtime and OpenVINO as runners to compare with, set up as their manuals advise.

In float32; or in bfloat16 where that is asked for, which OpenVINO has and ONNX Runtime has not.

All get the same static shapes, the same inputs, bound ahead, and the same number of threads. Their
workers may spin within a run, as TVM's do, but not after it: that would be at the next one's cost.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmopt.errors import MissingPackageError, ModelError, unknown_name

# No TVM and no ONNX here: a process that measures a peer's memory holds nothing but the peer.
Array = npt.NDArray[Any]
Runner = Callable[[], object]


def peer_runners(
    names: Iterable[str],
    path: Path,
    inputs: Mapping[str, Array],
    threads: int,
    precision: str = "float32",
) -> dict[str, Runner]:
    """Runners of the original model by the peers' names.

    `precision` is what they should compute in, if they can: float32 or bfloat16.

    Raises:
        UsageError: an unknown peer.
        MissingPackageError: a peer is not installed.
        ModelError: a peer does not take the model.
    """
    runners: dict[str, Runner] = {}
    for name in names:
        if name not in PEERS:
            raise unknown_name("peer", name, PEERS)
        runners[name] = PEERS[name](path, inputs, threads, precision)
    return runners


def onnxruntime_runner(
    path: Path, inputs: Mapping[str, Array], threads: int, _precision: str = "float32"
) -> Runner:
    """ONNX Runtime's CPU provider with all graph optimizations; in float32, it has nothing less.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        ModelError: it does not take the model.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise _missing("onnxruntime") from None
    providers = ["CPUExecutionProvider"]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
        if open_dims := _named_dims(session, inputs):
            for name, size in open_dims.items():
                options.add_free_dimension_override_by_name(name, size)
            session = ort.InferenceSession(str(path), options, providers=providers)
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
    except Exception as error:  # noqa: BLE001 - it raises a dozen types without a common base
        raise _refused("ONNX Runtime", path, error) from None
    return lambda: session.run_with_iobinding(binding)


def openvino_runner(
    path: Path, inputs: Mapping[str, Array], threads: int, precision: str = "float32"
) -> Runner:
    """OpenVINO's CPU plugin for latency, its threads pinned.

    In bfloat16 where the CPU has it, in float32 otherwise.

    Raises:
        MissingPackageError: openvino is not installed.
        ModelError: it does not take the model.
    """
    try:
        import openvino
    except ImportError:
        raise _missing("openvino") from None
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Without a hint it takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "ENABLE_CPU_PINNING": True,
    }
    try:
        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape({name: list(array.shape) for name, array in inputs.items()})
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for name, array in inputs.items():
            tensor = openvino.Tensor(np.ascontiguousarray(array), shared_memory=True)
            request.set_tensor(name, tensor)
        request.infer(share_outputs=True)
    except Exception as error:  # noqa: BLE001 - as above
        raise _refused("OpenVINO", path, error) from None
    return lambda: request.infer(share_outputs=True)


PEERS: Mapping[str, Callable[[Path, Mapping[str, Array], int, str], Runner]] = {
    "onnxruntime": onnxruntime_runner,
    "openvino": openvino_runner,
}
"""By the name that `--against` takes."""


def _named_dims(session: Any, inputs: Mapping[str, Array]) -> dict[str, int]:
    return {
        dim: size
        for value in session.get_inputs()
        if value.name in inputs
        for dim, size in zip(value.shape, inputs[value.name].shape, strict=False)
        if isinstance(dim, str)
    }


def _missing(name: str) -> MissingPackageError:
    return MissingPackageError(f"{name} is not installed", "pip install 'tvmopt[peers]'")


def _refused(name: str, path: Path, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return ModelError(f"{name} does not run '{path}': {reason}", "leave it out of --against")
