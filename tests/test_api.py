"""The Python API on the trained model that ships with the project."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import tvmopt

DIGITS = Path(__file__).parents[1] / "tools" / "digits"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(DIGITS / "digits_test.npz")["image"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("digits") / "digits.tvmpkg"
    return tvmopt.compile(DIGITS / "digits.onnx", output=output)


@pytest.mark.parametrize("target", ["x86", "x86-avx2"])
def test_every_test_image_gets_the_class_that_the_original_gives(
    target: str, images: np.ndarray
) -> None:
    package = tvmopt.compile(DIGITS / "digits.onnx", target=target)
    session = onnxruntime.InferenceSession(DIGITS / "digits.onnx")
    name, batch = package.inputs[0].name, package.inputs[0].shape[0]
    count = len(images) // batch * batch
    for start in range(0, count, batch):
        feed = {name: np.ascontiguousarray(images[start : start + batch])}
        ours = next(iter(package.run(feed).values()))
        np.testing.assert_array_equal(ours.argmax(1), session.run(None, feed)[0].argmax(1))


def test_no_kernel_of_the_shipped_model_falls_back(package) -> None:
    assert [layer.op for layer in package.report.layers if layer.fallback] == []


def test_layers_name_the_nodes_of_the_onnx_file(package) -> None:
    import onnx

    names = {node.name for node in onnx.load(DIGITS / "digits.onnx").graph.node}
    told = {name for layer in package.report.layers for name in layer.nodes}
    assert told <= names


def test_given_inputs_are_verified_with(images: np.ndarray) -> None:
    shape = tvmopt.compile(DIGITS / "digits.onnx", verify=False).inputs[0]
    with pytest.raises(tvmopt.InputError, match=shape.name):
        tvmopt.compile(DIGITS / "digits.onnx", inputs={shape.name: images[:0]})


def test_loaded_package_gives_what_the_compiled_one_gave(package, images, tmp_path) -> None:
    path = tmp_path / "again.tvmpkg"
    fresh = tvmopt.compile(DIGITS / "digits.onnx", output=path)
    spec = fresh.inputs[0]
    feed = {spec.name: np.ascontiguousarray(images[: spec.shape[0]])}
    again = tvmopt.load(path).run(feed)
    for name, value in package.run(feed).items():
        np.testing.assert_array_equal(again[name], value)
