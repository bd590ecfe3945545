import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tvmopt import GateError, InputError
from tvmopt.compiler.allowances import (
    QUANTIZED_LIMIT,
    chosen_from,
    forgive,
    forgive_ties,
    step_limits,
)
from tvmopt.compiler.compare import compare, is_within
from tvmopt.compiler.package import Package
from tvmopt.compiler.verify import allowed, verify_draft


def verified(small, output: Path | None = None, **kwargs):
    with small.draft(output, **kwargs) as draft:
        verification = verify_draft(draft, draft.imported, draft.report)
        draft.publish()
    return verification


@pytest.fixture(params=["ONNX Runtime", "onnx.reference"])
def reference(request, monkeypatch):
    """Both ways to run the original."""
    if request.param == "ONNX Runtime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return request.param


def test_a_correct_model_passes_and_its_error_is_recorded(small, tmp_path, reference):
    verification = verified(small, tmp_path / "a.tvmpkg")
    assert verification.reference.startswith(reference)
    assert verification.outputs[0].output == "y"
    assert verification.outputs[0].max_rel < 1e-6
    assert Package.load(tmp_path / "a.tvmpkg").manifest.verification == verification


def test_a_wrong_weight_fails_with_the_first_layer_that_departs(small, tmp_path, reference):
    wrong = small.weight.copy()
    wrong[3, 5] += 0.1
    output = tmp_path / "a.tvmpkg"
    with pytest.raises(GateError, match=r"output 'y' departs .*: relative error 0\.") as caught:
        verified(small, output, weight=wrong)
    assert caught.value.exit_code == 3
    hint = str(caught.value.hint)
    assert "'product' (matmul, kernel matmul" in hint
    assert "tensor 'multiplied'" in hint
    assert "the 2 layers compared before it agree" in hint
    assert not output.exists()


def test_an_error_that_no_layer_shows_is_told_so(small):
    wrong = small.weight * 2
    with small.draft(weight=wrong) as draft:
        draft.imported.node_outputs.clear()
        with pytest.raises(GateError) as caught:
            verify_draft(draft, draft.imported, draft.report)
    assert "no single layer departs" in str(caught.value.hint)


def test_given_inputs_are_used_and_checked(small):
    with small.draft() as draft:
        inputs = {"x": np.ones((4, 8), np.float32), "ids": np.zeros(4, np.int64)}
        verification = verify_draft(draft, draft.imported, draft.report, inputs)
        assert verification.seed is None
        with pytest.raises(InputError, match="'ids' is missing"):
            verify_draft(draft, draft.imported, draft.report, {"x": inputs["x"]})


def choice(op: str, output: int = 0, **attributes) -> tuple[str, onnx.NodeProto] | None:
    names = ["best", "where"][: output + 1]
    nodes = [
        helper.make_node(op, ["logits", "k"][: output + 1], names, **attributes),
        helper.make_node("Cast", [names[output]], ["y"], to=TensorProto.INT32),
    ]
    return chosen_from(helper.make_graph(nodes, "g", [], []), "y")


def after_ties(values, ours, original, op="ArgMax", output=0, **attributes):
    found = choice(op, output, **attributes)
    assert found is not None
    error = compare("y", ours, original)
    return forgive_ties(error, ours, original, values, found[1])


def test_the_source_of_indices_is_found_behind_a_cast():
    found = choice("ArgMax", axis=1)
    assert found is not None
    assert found[0] == "logits"


def test_other_integers_have_no_ties():
    assert choice("Floor") is None


def test_a_tie_is_forgiven_and_counted():
    values = np.array([[1.0, 5.0, 5.0 + 1e-6], [3.0, 2.0, 1.0]], np.float32)
    error = after_ties(values, np.array([[1], [0]]), np.array([[2], [0]]), axis=1)
    assert is_within(error)
    assert error.ties == 1


def test_a_tie_is_forgiven_without_kept_dimensions():
    values = np.array([[1.0, 5.0, 5.0]], np.float32)
    assert is_within(after_ties(values, np.array([1]), np.array([2]), axis=1, keepdims=0))


def test_a_swap_in_topk_is_forgiven():
    values = np.array([[9.0, 5.0, 5.0, 1.0]], np.float32)
    ours, original = np.array([[0, 2, 1]]), np.array([[0, 1, 2]])
    assert is_within(after_ties(values, ours, original, op="TopK", output=1))


def test_a_choice_that_is_worse_is_an_error():
    values = np.array([[1.0, 5.0, 4.9]], np.float32)
    assert not is_within(after_ties(values, np.array([[2]]), np.array([[1]]), axis=1))


def test_an_index_out_of_range_is_an_error():
    values = np.array([[5.0, 5.0]], np.float32)
    assert not is_within(after_ties(values, np.array([[7]]), np.array([[1]]), axis=1))


def judged(ours, original, *ops: str):
    """The error of `y`, the result of these operators, judged again."""
    names = ["x", *(f"t{i}" for i in range(len(ops) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(ops)]
    graph = helper.make_graph(nodes, "g", [], [])
    error = compare("y", ours, original)
    return forgive([error], {"y": ours}, {"y": original}, Unused(), graph, {})[0]


class Unused:
    name = "unused"

    def run(self, inputs, outputs):
        raise AssertionError


def test_a_quantized_model_may_be_a_step_off():
    original = np.array([1.0, -0.5], np.float32)
    error = judged(original + 1 / 127, original, "QuantizeLinear", "DequantizeLinear")
    assert is_within(error)
    assert error.limit == QUANTIZED_LIMIT


def test_an_allowance_is_told():
    original = np.array([1.0, -0.5], np.float32)
    strict = compare("y", original + 1 / 127, original)
    remarks = allowed([strict], [judged(original + 1 / 127, original, "QuantizeLinear")])
    assert [remark.kind for remark in remarks] == ["missed"]
    assert "output 'y'" in remarks[0].message
    assert "judged by 0.024" in remarks[0].message


def test_an_output_within_its_own_limit_needs_no_allowance():
    original = np.array([1.0, -0.5], np.float32)
    strict = compare("y", original, original)
    assert allowed([strict], [judged(original, original, "QuantizeLinear")]) == []


def test_a_quantized_model_may_not_be_many_steps_off():
    original = np.array([1.0, -0.5], np.float32)
    assert not is_within(judged(original + 5 / 127, original, "QuantizeLinear"))


def test_a_model_that_does_not_quantize_has_no_step_to_be_off():
    original = np.array([1.0, -0.5], np.float32)
    assert not is_within(judged(original + 1 / 127, original, "Relu"))


def test_an_output_that_is_infinite_on_both_sides_is_remarked_on(small):
    with small.draft() as draft:
        x = np.zeros((4, 8), np.float32)
        x[0, 0] = np.inf
        inputs = {"x": x, "ids": np.zeros(4, np.int64)}
        verification = verify_draft(draft, draft.imported, draft.report, inputs)
    assert verification is not None
    assert verification.outputs[0].finite_share < 1
    assert "NaN or infinite in the original, too" in draft.report.remarks[-1].message


CHAIN = """
<ir_version: 10, opset_import: ["" : 21]>
chain (float[64] x) => (float[64] y)
<float s = {0.05}, float t = {0.0001}, uint8 z = {128}>
{
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    far = Sub (x, d)
    q2 = QuantizeLinear (far, t, z)
    y = DequantizeLinear (q2, t, z)
}
"""


class ByOnnx:
    name = "onnx.reference"

    def run_other(self, model, inputs, outputs):
        values = ReferenceEvaluator(model).run(list(outputs), dict(inputs))
        return dict(zip(outputs, values, strict=True))


def test_a_network_that_carries_steps_on_may_be_further_off():
    x = np.linspace(-5.9, 5.9, 64, dtype=np.float32)
    exact = ByOnnx().run_other(onnx.parser.parse_model(CHAIN), {"x": x}, ["y"])
    limit = step_limits(onnx.parser.parse_model(CHAIN), ByOnnx(), exact, {"x": x})["y"]
    assert QUANTIZED_LIMIT < limit <= 0.5


def test_a_network_that_a_step_does_not_move_far_has_the_usual_limit():
    text = CHAIN.replace("far = Sub (x, d)", "far = Relu (d)").replace("0.0001", "0.05")
    x = np.linspace(-5.9, 5.9, 64, dtype=np.float32)
    exact = ByOnnx().run_other(onnx.parser.parse_model(text), {"x": x}, ["y"])
    assert step_limits(onnx.parser.parse_model(text), ByOnnx(), exact, {"x": x}) == {
        "y": QUANTIZED_LIMIT
    }
