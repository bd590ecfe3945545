"""Whole networks, exported after the graph passes, compute what the original files do."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from round_trip import assert_same, exported

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torch_networks import NETWORKS  # noqa: E402 - torch may be missing

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("opset", [17, 21])
def test_small_network_makes_the_round_trip(name: str, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, make_inputs = NETWORKS[name]
    network, inputs = build().eval(), make_inputs()
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(network, inputs, path, dynamo=True, opset_version=18, verbose=False)
    original = onnx.load(path)
    names = [value.name for value in original.graph.input]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    assert_same(exported(path, opset), original, feeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "vit_tiny", "yolov8n", "crnn"])
def test_real_architecture_makes_the_round_trip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("tool_make_models", TOOLS / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, spec.name, tool)
    spec.loader.exec_module(tool)
    path = tmp_path / f"{name}.onnx"
    tool.write(tool.ARCHITECTURES[name], path, 1)
    shapes = tool.ARCHITECTURES[name].inputs
    rng = np.random.default_rng(0)
    feeds = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    assert_same(exported(path), onnx.load(path), feeds)
