"""Recipes are read, and what is wrong in one is named to the key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tvmopt import Backend, Calibrator, Capabilities, Device, Metric, Pass, Stage, UsageError
from tvmopt.plugins import Plugins
from tvmopt.recipe import Quantization, Recipe, read_recipe


@dataclass(frozen=True)
class Layout(Pass):
    name: ClassVar[str] = "layout"
    stage: ClassVar[Stage] = Stage.LAYOUT

    block: int = 16
    weights: bool = True

    def run(self, mod: Any, ctx: Any) -> Any:
        return mod


@dataclass(frozen=True)
class Fuse(Pass):
    name: ClassVar[str] = "fuse"
    stage: ClassVar[Stage] = Stage.FUSE

    def run(self, mod: Any, ctx: Any) -> Any:
        return mod


class X86(Backend):
    name: ClassVar[str] = "x86"
    description: ClassVar[str] = "a backend of the tests"
    devices = (Device("x86-avx2", "a device"),)

    @property
    def capabilities(self) -> Capabilities:
        raise NotImplementedError

    def target(self) -> Any:
        raise NotImplementedError

    def schedule_rules(self) -> Any:
        raise NotImplementedError


@dataclass
class Best(Calibrator):
    name = "best"
    share: int = 1

    def update(self, values: Any, low: float, high: float) -> None:
        raise NotImplementedError

    def range(self) -> tuple[float, float]:
        raise NotImplementedError


@dataclass
class Hits(Metric):
    name = "hits"

    def update(self, output: Any, reference: Any) -> None:
        raise NotImplementedError

    def value(self) -> float:
        raise NotImplementedError


PLUGINS = Plugins.of()
PLUGINS.passes |= {"layout": Layout, "fuse": Fuse}
PLUGINS.backends |= {"x86": X86}
PLUGINS.calibrators |= {"best": Best}
PLUGINS.metrics |= {"hits": Hits}

FULL = """
model: models/net.onnx
target: x86-avx2
output: out/net.tvmpkg
input-shapes: {x: [1, 3, 224, 224], y: []}
dims:
  batch: 1
passes:
  - fuse
  - layout: {block: 8, weights: false}
disable-passes: [fuse]
quantize: int8
calibration: train.npz
calibrator: best:share=3
calibration-samples: 12
exclude: [/head/*, "op:matmul"]
max-drop: 0.3
metric: hits
dataset: digits:split=test
measure: false
if-slower: keep
verify: false
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, PLUGINS)


def test_every_key_is_read_and_paths_start_at_the_file(tmp_path: Path):
    assert read(tmp_path, FULL) == Recipe(
        model=tmp_path / "models/net.onnx",
        target="x86-avx2",
        output=tmp_path / "out/net.tvmpkg",
        input_shapes={"x": (1, 3, 224, 224), "y": ()},
        dims={"batch": 1},
        passes={"fuse": {}, "layout": {"block": "8", "weights": "false"}},
        disabled=frozenset({"fuse"}),
        quantization=Quantization(
            quantize="int8",
            calibration=str(tmp_path / "train.npz"),
            calibrator="best:share=3",
            calibration_samples=12,
            exclude=("/head/*", "op:matmul"),
            max_drop="0.3",
            metric="hits",
            dataset="digits:split=test",
            measure=False,
            if_slower="keep",
        ),
        verify=False,
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "target:\n"])
def test_what_is_left_out_says_nothing(tmp_path: Path, text: str):
    assert read(tmp_path, text) == Recipe()


WRONG = {
    "unknown key": ("modle: x.onnx", "key 'modle': no key is called 'modle'", "'model'"),
    "unknown target": ("target: x86-avx3", "key 'target': no target is called", "'x86-avx2'"),
    "unknown pass": ("passes: [fusee]", "key 'passes': no pass is called 'fusee'", "'fuse'"),
    "unknown disabled pass": (
        "disable-passes: [layuot]",
        "key 'disable-passes': no pass is called 'layuot'",
        "'layout'",
    ),
    "unknown option": (
        "passes: [{layout: {blok: 8}}]",
        "key 'passes.layout': no option of pass 'layout' is called 'blok'",
        "'block'",
    ),
    "option of a wrong type": ("passes: [{layout: {block: wide}}]", "wants int, got 'wide'", ""),
    "option with a list": ("passes: [{layout: {block: [8]}}]", "'passes.layout.block'", ""),
    "options that are no mapping": ("passes: [{layout: 8}]", "'passes.layout': expected", ""),
    "passes as a mapping": ("passes: {fuse: {}}", "'passes': expected a list of names", ""),
    "shape that is no list": ("input-shapes: {x: 3}", "'input-shapes.x': expected a list", ""),
    "size that is no number": ("input-shapes: {x: [1, N]}", "'input-shapes.x': expected a p", ""),
    "size of zero": ("dims: {N: 0}", "'dims.N': expected a positive whole number, got 0", ""),
    "size that is true": ("dims: {N: yes}", "'dims.N': expected a positive whole number", ""),
    "dims as a list": ("dims: [N]", "'dims': expected `name: value` lines", ""),
    "model that is no text": ("model: [a]", "'model': expected text", ""),
    "verify that is neither": ("verify: maybe", "'verify': expected true or false", ""),
    "verify that is a number": ("verify: 1", "'verify': expected true or false", ""),
    "unknown mode": ("quantize: int9", "key 'quantize': no value is called 'int9'", "'int8'"),
    "unknown calibrator": ("calibrator: bets", "no calibrator is called 'bets'", "'best'"),
    "unknown metric": ("metric: hit", "key 'metric': no metric is called 'hit'", "'hits'"),
    "unknown remedy": ("if-slower: flaot", "key 'if-slower': no value is called", "'float'"),
    "a negative drop": ("max-drop: -1%", "key 'max-drop': a drop is a share such as 1%", ""),
    "a drop that is true": ("max-drop: yes", "key 'max-drop': a drop is a share", ""),
    "no samples": ("calibration-samples: 0", "'calibration-samples': expected a positive", ""),
    "exclude with numbers": ("exclude: [a, 1]", "'exclude': expected a list of texts", ""),
    "measure that is neither": ("measure: 2", "'measure': expected true or false", ""),
    "a list": ("- model", "expected `key: value` lines, got a list", ""),
    "a repeated key": ("model: a\nmodel: b", "key 'model': line 2 gives this key again", ""),
    "a repeated name": ("dims:\n  N: 1\n  N: 2", "key 'dims.N': line 3 gives", ""),
    "no YAML": ("model: [a\ntarget: x", "line 2: this is no YAML", ""),
    "a control character": ("model: \x07", "this is no YAML", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_told_with_file_key_and_nearest_name(case: str, tmp_path: Path):
    text, message, near = WRONG[case]
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert f"recipe '{tmp_path / 'recipe.yaml'}'" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.hint or "") == (f"did you mean {near}?" if near else "")


def test_a_missing_recipe_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"the recipe '.*gone\.yaml' does not exist"):
        read_recipe(tmp_path / "gone.yaml", PLUGINS)


def test_a_folder_or_a_binary_file_is_no_recipe(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_recipe(tmp_path, PLUGINS)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read: it is no UTF-8 text"):
        read_recipe(tmp_path / "b.yaml", PLUGINS)


def test_what_the_command_line_says_comes_before_the_recipe():
    given = Quantization(quantize="int8", measure=False, exclude=("a",))
    recipe = Quantization(quantize="int8-dynamic", measure=True, max_drop="1%", exclude=("b", "c"))
    expected = Quantization(quantize="int8", measure=False, max_drop="1%", exclude=("a",))
    assert given.over(recipe) == expected
    assert Quantization().over(recipe) == recipe


def test_data_are_beside_the_recipe_or_named(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    for text, expected in {
        "samples": str(tmp_path / "samples"),
        "gone.npz": str(tmp_path / "gone.npz"),
        "digits": "digits",
        "digits:size=1.5": "digits:size=1.5",
    }.items():
        assert read(tmp_path, f"calibration: {text}").quantization.calibration == expected
