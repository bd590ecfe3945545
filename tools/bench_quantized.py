"""Quantized files for `bench_peers.py`, and in which precision each program computes one.

ONNX Runtime's own tools make the files, so that no program is given a file of its own kind.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION_SAMPLES = 4
SEED = 0

_INTEGER = "int8"
_FLOAT = "float32"
_QUANTIZED_INPUT = {"DequantizeLinear"}
_INTEGER_OPS = (
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", "QAttention"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearConvTranspose"),
)
_FLOAT_OPS = ("Conv", "FusedConv", "NhwcFusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")
_OPENVINO_PRODUCTS = ("Convolution", "FullyConnected", "MatMul")


def is_quantized(path: Path) -> bool:
    """Whether a model computes in integers, or says with which encodings it could."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return any(node.op_type in (*_QUANTIZED_INPUT, *_INTEGER_OPS) for node in graph.node)


def adds_in_32_bits() -> bool:
    """Whether this CPU adds four products of bytes in 32 bits (VNNI), so that no sum saturates."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "avx512_vnni" in text or "avx_vnni" in text


def quantize_file(source: Path, made: Path, *, reduce_range: bool) -> None:
    """Writes a QDQ file: uint8 activations, int8 weights per channel, ranges of random samples.

    Args:
        source: a float model with static shapes.
        made: the new file.
        reduce_range: weights of 7 bits. Without VNNI, ONNX Runtime's sums of two products saturate
            with 8 bits: another result, and no fair comparison.
    """
    import tempfile

    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            made,
            _reader(prepared),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _reader(path: Path) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    samples = _samples(path)

    class Random(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(samples, None)

    return Random()


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """Normal numbers, and for integers, which are mostly tokens or masks, ones."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_SAMPLES):
        sample: dict[str, Any] = {}
        for value in graph.input:
            if value.name in constants:
                continue
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            shape = [dim.dim_value or 1 for dim in kind.shape.dim]
            floating = np.issubdtype(dtype, np.floating)
            array = rng.standard_normal(shape) if floating else np.ones(shape)
            sample[value.name] = array.astype(dtype)
        yield sample


def own_precision(package: Any) -> str:
    """How many kernels of a tvmopt package multiply what."""
    kinds = Counter(layer.products for layer in package.report.layers if _multiplies(layer.op))
    return _sentence(kinds)


def _multiplies(op: str) -> bool:
    return any(name in op for name in ("conv", "matmul", "dense", "winograd"))


def onnxruntime_precision(path: Path, folder: Path) -> str:
    """How many products ONNX Runtime's optimizers left in float, and how many are of integers."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    kinds: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _INTEGER_OPS:
            kinds[_INTEGER] += 1
        elif node.op_type in _FLOAT_OPS:
            kinds[_FLOAT] += 1
    return _sentence(kinds)


def openvino_precision(path: Path) -> str:
    """The same of OpenVINO's compiled model, by the types that it says its nodes run in."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", settings).get_runtime_model()
    names = {"f32": _FLOAT, "u8": _INTEGER, "i8": _INTEGER}
    kinds: Counter[str] = Counter()
    for node in model.get_ops():
        info = node.get_rt_info()
        if str(info["layerType"].value) in _OPENVINO_PRODUCTS:
            precision = str(info["runtimePrecision"].value)
            kinds[names.get(precision, precision)] += 1
    return _sentence(kinds)


def _sentence(kinds: Counter[str]) -> str:
    total = sum(kinds.values())
    if not total:
        return "no products"
    return ", ".join(f"{count} of {total} products {kind}" for kind, count in kinds.most_common())
