"""What a model in 16-bit precision may be off by, and what verification says of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt.cli.reporting import verification_text
from tvmopt.compiler.rounding import (
    LEAST_SQNR_DB,
    POOR_SQNR_DB,
    quality,
    round_to,
    round_weights,
)
from tvmopt.errors import GateError


def _model(path: Path, bias: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 32)).astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"),
            helper.make_node("Add", ["h", "b"], ["y"], name="add"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 32])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.full(32, bias, "float32"), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_package_states_its_error_and_what_was_allowed(tmp_path: Path, dtype: str) -> None:
    options: Mapping[str, Mapping[str, str]] = {"mixed-precision": {"dtype": dtype}}
    package = tvmopt.compile(_model(tmp_path / "m.onnx"), target="x86-avx2", passes=options)
    verification = package.manifest.verification
    assert verification is not None
    assert verification.precision == dtype
    (output,) = verification.outputs
    # Rounding moves the result, by less than two roundings of the largest element times sqrt(K).
    assert 1e-5 < output.max_rel <= output.limit < 0.1
    assert output.sqnr_db is not None
    assert output.sqnr_db > 40
    assert output.top_1 is not None
    said = [r.message for r in package.manifest.report.remarks if r.pass_name == "verify"]
    assert any(f"computed in {dtype}" in text and "allowed are" in text for text in said)


def test_an_error_beyond_rounding_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvmopt_plugins.pack_matmul import rewrite

    def wrong(array: np.ndarray, axis: int) -> np.ndarray:
        packed = pack(array, axis)
        packed[0, 0] = 0  # one pair of 8 is lost
        return packed

    pack = rewrite.pack_pairs
    monkeypatch.setattr(rewrite, "pack_pairs", wrong)
    with pytest.raises(GateError, match="relative error"):
        tvmopt.compile(
            _model(tmp_path / "m.onnx"), target="x86-avx2", passes={"mixed-precision": {}}
        )


def _difference(path: Path, closeness: float) -> Path:
    """`x @ w - x @ (closeness w)`: products that cancel."""
    weight = np.random.default_rng(0).standard_normal((16, 32)).astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["p"], name="first"),
            helper.make_node("MatMul", ["x", "b"], ["q"], name="second"),
            helper.make_node("Sub", ["p", "q"], ["y"], name="sub"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 32])],
        [
            numpy_helper.from_array(weight, "a"),
            numpy_helper.from_array(np.float32(closeness) * weight, "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_result_that_is_mostly_noise_is_refused(tmp_path: Path) -> None:
    """A bfloat16 has 8 bits, and the terms of the difference agree in these."""
    path = _difference(tmp_path / "m.onnx", 1 - 2**-8)
    with pytest.raises(GateError, match="output 'y'") as caught:
        tvmopt.compile(path, target="x86-avx2", passes={"mixed-precision": {}})
    assert "keep layers in float32" in (caught.value.hint or "")
    assert tvmopt.compile(path, target="x86-avx2").manifest.verification is not None


def test_a_noisy_result_passes_with_a_warning(tmp_path: Path) -> None:
    """Of 8 bits, the difference keeps 2."""
    path = _difference(tmp_path / "m.onnx", 1 - 2**-6)
    package = tvmopt.compile(path, target="x86-avx2", passes={"mixed-precision": {}})
    assert package.manifest.verification is not None
    (output,) = package.manifest.verification.outputs
    assert output.sqnr_db is not None
    assert LEAST_SQNR_DB <= output.sqnr_db < POOR_SQNR_DB
    missed = [r.message for r in package.manifest.report.remarks if r.kind == "missed"]
    assert any("which is poor: under 20 dB" in text for text in missed)
    assert "dB (POOR)" in verification_text(package.manifest.verification)


def test_only_the_weights_of_products_are_rounded(tmp_path: Path) -> None:
    model = onnx.load(_model(tmp_path / "m.onnx", bias=1.0009765625))
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert round_weights(model.graph, "bfloat16") == 1
    after = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(after["w"], round_to(before["w"], "bfloat16"))
    np.testing.assert_array_equal(after["b"], before["b"])


def test_quality_of_scores() -> None:
    exact = np.eye(10, dtype="float32")
    off = exact.copy()
    off[0, 1] = 2
    assert quality(exact, exact) == (None, 1.0)
    ratio_db, top_1 = quality(off, exact)
    assert ratio_db == pytest.approx(10 * np.log10(10 / 4))
    assert top_1 == 0.9
    off[1, 1] = exact[1, 1] = np.inf  # left out of the ratio
    assert quality(off, exact) == (pytest.approx(10 * np.log10(9 / 4)), None)
    assert quality(np.ones((2, 3, 4)), np.ones((2, 3, 4)) * 2)[1] is None
