"""Networks as `torch.onnx.export(dynamo=True)` writes them import well and compute the same."""

from pathlib import Path

import numpy as np
import pytest
from small_onnx import run

from tvmopt import ModelSource
from tvmopt.compiler.importer import import_model

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch_networks import NETWORKS  # noqa: E402 - torch may be missing


@pytest.mark.slow
@pytest.mark.parametrize(("name", "opset"), [*((name, 18) for name in NETWORKS), ("bert", 20)])
def test_exported_network_computes_what_torch_computes(
    name: str, opset: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    build, make_inputs = NETWORKS[name]
    network, inputs = build().eval(), make_inputs()
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        expected = network(*inputs).numpy()
        torch.onnx.export(network, inputs, path, dynamo=True, opset_version=opset, verbose=False)
    result = import_model(ModelSource(path))
    feeds = {spec.name: x.numpy() for spec, x in zip(result.inputs, inputs, strict=True)}
    (actual,) = run(result, feeds)
    # sums of at most some hundred float32 terms, through some ten layers
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    names = {binding.var.name for b in result.module["main"].body.blocks for binding in b.bindings}
    assert names <= set(result.node_outputs) | {out.name for out in result.outputs}
