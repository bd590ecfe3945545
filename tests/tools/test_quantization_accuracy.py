"""The figures and verdicts of `tools/quantization_accuracy.py`."""

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from tvmopt.calibration import split_options
from tvmopt.plugins import Plugins


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("quantization_accuracy")


@pytest.fixture
def rows(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("accuracy_rows")


def limits_of(rows: ModuleType, drop: str, correlation: float | None = None):
    return rows.Limits({"net": rows.Drop.parse(drop)}, correlation)


def test_accuracy_counts_largest_logits_and_never_a_nan(tool: ModuleType):
    logits = np.array([[1, 0], [0, 1], [np.nan, 0], [2, 1]], dtype=np.float32)
    assert tool.accuracy_of({"logits": logits}, np.array([0, 0, 0, 0])) == 0.5


def test_rank_correlation_is_spearmans(tool: ModuleType):
    rng = np.random.default_rng(0)
    found, expected = rng.normal(size=(2, 500))
    found += expected
    ranks = [np.argsort(np.argsort(one)) for one in (found, expected)]
    count = len(found)
    # Without ties: 1 - 6 sum(d^2) / (n (n^2 - 1)).
    exact = 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (count * (count**2 - 1))
    assert tool.rank_correlation(found, expected) == pytest.approx(exact)


def test_similarities_do_not_depend_on_the_embeddings_lengths(tool: ModuleType):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 8))
    scaled = embeddings * rng.uniform(1, 9, size=(50, 1))
    np.testing.assert_allclose(tool.similarities(scaled), tool.similarities(embeddings))


def test_samples_are_run_one_by_one_and_joined(tool: ModuleType):
    seen: list[tuple[int, ...]] = []

    def double(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["x"].shape)
        return {"y": 2 * inputs["x"]}

    x = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(tool.outputs_of(double, {"x": x})["y"], 2 * x)
    assert seen == [(1, 2)] * 3


@pytest.mark.parametrize(("drop", "code"), [("1", 0), ("0.9", 3), ("1.2%", 3), ("1.3%", 0)])
def test_drops_are_held_to_points_or_percent(rows: ModuleType, drop: str, code: int):
    row = rows.Row("net", rows.OWN, 100, float_accuracy=0.75, accuracy=0.740625)
    assert row.drop_points == pytest.approx(0.9375)
    assert row.drop_percent == pytest.approx(1.25)
    assert rows.verdict([row], limits_of(rows, drop)) == code


def test_peers_are_not_held_to_limits(rows: ModuleType):
    peer = rows.Row("net", "onnxruntime", 100, 0.9, 0.1, correlation=0.1)
    own = rows.Row("net", rows.OWN, 100, 0.9, 0.9, correlation=1.0)
    assert rows.verdict([peer, own], limits_of(rows, "0.3", 0.998)) == 0


def test_low_correlation_is_named(rows: ModuleType, capsys: pytest.CaptureFixture[str]):
    own = rows.Row("net", rows.OWN, 100, 0.9, 0.9, correlation=0.99)
    assert rows.verdict([own], limits_of(rows, "0.3", 0.998)) == 3
    assert "net: a rank correlation of 0.9900 is under 0.998" in capsys.readouterr().out


def test_a_nan_is_over_every_limit(rows: ModuleType):
    own = rows.Row("net", rows.OWN, 100, 0.9, 0.9, correlation=float("nan"))
    assert rows.verdict([own], limits_of(rows, "0.3", 0.998)) == 3


def test_a_limit_on_what_was_not_measured_is_missed(rows: ModuleType):
    other = rows.Row("other", rows.OWN, 100, 0.9, 0.9)
    assert rows.verdict([other], limits_of(rows, "0.3")) == 3


def test_a_failure_exits_with_1_and_is_named(rows: ModuleType, capsys: pytest.CaptureFixture[str]):
    failed = rows.Row("net", rows.OWN, 100, 0.9, error="no such option")
    assert rows.verdict([failed], limits_of(rows, "0.3")) == 1
    assert "net, tvmopt: no such option" in capsys.readouterr().out


def test_a_model_without_labels_is_judged_by_its_correlation_alone(
    tool: ModuleType, rows: ModuleType
):
    accuracy = tool.accuracy_of({"sentence_embedding": np.ones((2, 4))}, None)
    own = rows.Row("net", rows.OWN, 2, accuracy, accuracy, correlation=0.999)
    assert rows.verdict([own], rows.Limits({}, 0.998)) == 0
    assert list(rows.table_of([own]).columns[4].cells) == ["-"]


def test_the_table_tells_how_much_is_in_integers(rows: ModuleType):
    own = rows.Row("net", rows.OWN, 2, 0.9, 0.9, quantized=3, products=5)
    assert list(rows.table_of([own]).columns[2].cells) == ["3 of 5"]


def test_variants_set_options_of_the_compiler(rows: ModuleType):
    plugins = Plugins.load()
    for options in rows.VARIANTS.values():
        for name in [two for one, two in pairwise(options) if one == "--disable-pass"]:
            assert name in plugins.passes
        for given in [two for one, two in pairwise(options) if one == "--pass"]:
            name, values = split_options(given)
            plugins.passes[name].from_options(values)
