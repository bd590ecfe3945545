"""Quantized models in every form that ONNX Runtime's quantizer writes agree with ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")
QUANTIZER = pytest.importorskip("onnxruntime.quantization")
NETS = Path(__file__).parents[1] / "compiler" / "importer"

FORMS = {
    "u8s8": ("QUInt8", "QInt8", "QDQ"),
    "s8s8": ("QInt8", "QInt8", "QDQ"),
    "u8u8": ("QUInt8", "QUInt8", "QDQ"),
    "operators": ("QUInt8", "QUInt8", "QOperator"),
}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("net", "form"),
    [
        ("conv_net", "s8s8"),
        ("up_net", "u8u8"),
        ("conv_net", "operators"),
        pytest.param("conv_net", "u8u8", marks=slow),
        pytest.param("up_net", "u8s8", marks=slow),
        pytest.param("up_net", "s8s8", marks=slow),
    ],
)
def test_all_but_one_in_a_thousand_elements_are_within_a_step(
    load_tool: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    net: str,
    form: str,
) -> None:
    monkeypatch.syspath_prepend(str(NETS))
    import quantized_nets

    activation, weight, kind = FORMS[form]
    made = quantized_nets.static(
        quantized_nets.NETS[net](),
        tmp_path,
        activation_type=QUANTIZER.QuantType[activation],
        weight_type=QUANTIZER.QuantType[weight],
        quant_format=QUANTIZER.QuantFormat[kind],
        per_channel=weight == "QInt8",
        reduce_range=True,  # the sums of ONNX Runtime's kernels saturate otherwise
    )
    onnx.save(made, tmp_path / "model.onnx")
    tool = load_tool("quantized_agreement")
    for found in tool.agreements(tmp_path / "model.onnx", "x86", 2, remarks=False):
        assert max(found.as_written, found.in_integers) >= 0.999, str(found)


def test_a_step_is_the_scale_of_what_makes_the_output(
    load_tool: Callable[[str], ModuleType],
) -> None:
    tool = load_tool("quantized_agreement")
    scale = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "s")
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        onnx.helper.make_node("Flatten", ["d"], ["y"]),
        onnx.helper.make_node("Relu", ["d"], ["r"]),
        onnx.helper.make_node("QuantizeLinear", ["d", "s"], ["i"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [scale])
    values = np.array([0.0, 51.0])
    assert [tool.step_of(graph, name, values) for name in "yri"] == [0.5, 0.2, 1.0]
