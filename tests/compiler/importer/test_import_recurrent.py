"""LSTM, GRU and RNN compute what ONNX Runtime computes, with all their options."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from recurrent_onnx import Layer
from small_onnx import imported, run

from tvmopt import ModelError

BOTH = {"direction": "bidirectional"}


def assert_like_onnxruntime(layer: Layer, folder: Path, opset: int = 20) -> None:
    """Compares all outputs with ONNX Runtime; states are bounded, so that errors do not grow."""
    onnxruntime = pytest.importorskip("onnxruntime")
    proto, feeds = layer.make(opset)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    for actual, wanted in zip(run(imported(proto, folder), feeds), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        Layer("LSTM"),
        Layer("LSTM", attributes=BOTH, optional="B lengths h c P"),
        Layer("LSTM", attributes={"direction": "reverse", "clip": 0.3}, optional="lengths c P"),
        Layer("LSTM", attributes={"input_forget": 1}, optional="h", outputs="Y_c"),
        Layer("LSTM", attributes=BOTH, outputs="Y_h Y_c"),
        Layer("GRU", attributes=BOTH, optional="B lengths h"),
        Layer("GRU", attributes={**BOTH, "linear_before_reset": 1}, optional="B lengths h"),
        Layer("GRU", attributes={"linear_before_reset": 1, "clip": 0.3}, optional=""),
        Layer("GRU", attributes={"direction": "reverse"}, outputs="Y"),
        Layer("RNN", attributes=BOTH, optional="B lengths h"),
        Layer("RNN", sizes=(1, 1, 1, 1), attributes={"direction": "reverse"}),
        Layer("LSTM", optional="B lengths", constant="W R B lengths"),
        Layer("GRU", attributes={"linear_before_reset": 1}, constant=""),
        Layer("LSTM", optional="B P", constant=""),
    ],
)
def test_layers_compute_what_onnxruntime_computes(tmp_path: Path, layer: Layer) -> None:
    assert_like_onnxruntime(layer, tmp_path)


@pytest.mark.parametrize("constant", ["W R B P", "W R B P lengths"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_sequences_of_no_steps_end_in_zeros_whatever_they_start_with(
    tmp_path: Path, cell: str, constant: str
) -> None:
    """ONNX says nothing of them; this is what ONNX Runtime 1.31 gives for `Y`, `Y_h`, `Y_c`."""
    optional = "B lengths h c" if cell == "LSTM" else "B lengths h"
    layer = Layer(cell, (4, 3, 2, 5), BOTH, optional, constant, first_length=0)
    assert_like_onnxruntime(layer, tmp_path)


@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (["Affine", "Elu", "HardSigmoid"], [0.5, 0.7, 0.3], [0.2, 0.4]),
        (["LeakyRelu", "ScaledTanh", "Softsign"], [0.3, 0.6], [0.7]),
        (["Sigmoid", "ThresholdedRelu", "softplus"], [0.1], []),
        (["HardSigmoid", "Relu", "Tanh"], [], []),
    ],
)
def test_activations_take_alpha_and_beta_in_order(
    tmp_path: Path, names: list[str], alpha: list[float], beta: list[float]
) -> None:
    attributes: dict[str, Any] = {"activations": names}
    attributes |= {"activation_alpha": alpha} if alpha else {}
    attributes |= {"activation_beta": beta} if beta else {}
    assert_like_onnxruntime(Layer("LSTM", (4, 2, 3, 5), attributes), tmp_path)


def test_directions_have_activations_of_their_own(tmp_path: Path) -> None:
    attributes = {**BOTH, "activations": ["Tanh", "LeakyRelu"], "activation_alpha": [0.3]}
    assert_like_onnxruntime(Layer("RNN", attributes=attributes), tmp_path)


@pytest.mark.parametrize("opset", [7, 13])
def test_older_operator_sets_compute_the_same(tmp_path: Path, opset: int) -> None:
    assert_like_onnxruntime(Layer("LSTM", optional="B lengths h c P"), tmp_path, opset)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-6), ("float16", 1e-2)])
def test_other_types_compute_the_same(tmp_path: Path, dtype: str, rtol: float) -> None:
    """The weights are float32 numbers; float16 rounds them, inputs and states: 10 bits, 5 steps."""
    layer = Layer("LSTM", attributes=BOTH, optional="B h c P", constant="")
    proto, feeds = layer.make()
    expected = run(imported(proto, tmp_path), feeds)
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in [*proto.graph.input, *proto.graph.output]:
        tensor.type.tensor_type.elem_type = elem_type
    results = run(imported(proto, tmp_path), {k: v.astype(dtype) for k, v in feeds.items()})
    for actual, wanted in zip(results, expected, strict=True):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_batch_first_is_the_same_transposed(tmp_path: Path, cell: str) -> None:
    """ONNX Runtime has no `layout` 1: the model with `layout` 0 is what is compared with."""
    optional = "B lengths h c P" if cell == "LSTM" else "B lengths h"
    plain, feeds = Layer(cell, attributes=BOTH, optional=optional).make()
    first, _ = Layer(cell, attributes={**BOTH, "layout": 1}, optional=optional).make()
    # The same seed draws the same numbers in other shapes: initializers are equal, inputs are fed.
    turned = {
        name: array.swapaxes(0, 1).copy() if name in ("X", "h", "c") else array
        for name, array in feeds.items()
    }
    y, *states = run(imported(first, tmp_path), turned)
    wanted, *last = run(imported(plain, tmp_path), feeds)
    np.testing.assert_array_equal(y, wanted.transpose(2, 0, 1, 3))
    for state, expected in zip(states, last, strict=True):
        np.testing.assert_array_equal(state, expected.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"direction": "sideways"}, "direction 'sideways' is none of forward, reverse, bidirect"),
        ({"activations": ["Tanh"]}, "it has 1 activations, but LSTM with 1 direction takes 3"),
        ({"activations": ["Tanh", "Cosh", "Tanh"]}, "activation 'Cosh' is none of Affine, Elu"),
        (
            {"activations": ["Sigmoid", "ThresholdedRelu", "Tanh"]},
            "activation 'ThresholdedRelu' has no default for activation_alpha",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, attributes: dict[str, Any], why: str
) -> None:
    proto, _ = Layer("LSTM", attributes=attributes).make()
    with pytest.raises(ModelError, match=rf"node 'rec' .*{why}"):
        imported(proto, tmp_path)


def test_lengths_beyond_the_sequence_are_refused(tmp_path: Path) -> None:
    proto, _ = Layer("RNN", optional="lengths", constant="W R lengths").make()
    lengths = next(one for one in proto.graph.initializer if one.name == "lengths")
    lengths.raw_data = np.array([5, 6, 1], "int32").tobytes()
    with pytest.raises(ModelError, match=r"'rec' .*sequence_lens \[5, 6, 1\] do not fit 5 steps"):
        imported(proto, tmp_path)
