"""The data and the recipes of `make_models.py --trained`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture
def recipes(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("make_models").recipes


def rows_of(arrays: dict[str, np.ndarray], name: str) -> set[bytes]:
    return {row.tobytes() for row in arrays[name]}


def test_lines_of_the_test_are_not_in_the_training_and_the_calibration_is(recipes: ModuleType):
    data = recipes.source_lines.load(recipes.SEED)
    train, test, calibration = (
        rows_of(samples.inputs, "input_ids")
        for samples in (data.train, data.test, data.calibration)
    )
    assert not train & test
    assert calibration <= train
    assert len(np.unique(data.train.labels)) == len(data.classes)


def test_padding_is_masked(recipes: ModuleType):
    inputs = recipes.source_lines.load(recipes.SEED).test.inputs
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert (ids[mask == 0] == recipes.source_lines.PADDING).all()
    assert mask.min(0).max() == 1, "short samples have padding at the end only"
    assert (np.diff(mask, axis=1) <= 0).all()


def test_data_are_the_same_every_time(recipes: ModuleType):
    first, second = (recipes.digits.load(recipes.SEED).test.inputs["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_recipe_writes_model_samples_and_record(
    recipes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = recipes.RECIPES["digits_cnn"]
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=1), required=0)
    monkeypatch.setitem(recipes.RECIPES, "digits_cnn", short)
    recipes.write(["digits_cnn"], tmp_path)
    onnx.checker.check_model(onnx.load(tmp_path / "digits_cnn.onnx"))
    assert json.loads((tmp_path / "trained.json").read_text())["digits_cnn"]["seed"] == 0
    assert dict(np.load(tmp_path / "digits_cnn_calibration.npz")).keys() == {"image"}
    assert dict(np.load(tmp_path / "digits_cnn_test.npz")).keys() == {"image", "label"}


def test_a_recipe_that_falls_short_writes_nothing(
    recipes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = recipes.RECIPES["digits_cnn"]
    untrained = replace(recipe, schedule=replace(recipe.schedule, epochs=1), required=1)
    monkeypatch.setitem(recipes.RECIPES, "digits_cnn", untrained)
    with pytest.raises(AssertionError, match="digits_cnn: accuracy"):
        recipes.write(["digits_cnn"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_sentences_of_the_published_encoder_occur_once(recipes: ModuleType):
    sentences = recipes.docstrings.sentences(recipes.SEED)
    assert len(set(sentences)) == len(sentences)
    ends = [uses.stop for uses in recipes.PUBLISHED_USES.values()]
    assert recipes.PUBLISHED_USES["test"].start >= recipes.PUBLISHED_USES["calibration"].stop
    assert max(ends) <= len(sentences)


def test_the_published_encoder_tells_what_sentences_are_about(recipes: ModuleType):
    for name in recipes.minilm.PACKAGES:
        pytest.importorskip(name)
    torch = pytest.importorskip("torch")
    sentences = ["Open a file for reading.", "Read a file from disk.", "The sum of all integers."]
    samples = recipes.minilm.encoded(sentences)
    assert samples["input_ids"].shape == (3, recipes.minilm.LENGTH)
    with torch.no_grad():
        found = recipes.minilm.load()(*map(torch.from_numpy, samples.values()))
    cosines = (found @ found.T).numpy()
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-5)
    assert cosines[0, 1] > 0.5 > cosines[0, 2]
