"""Metrics are what their names say, whatever the batches; judged by direct computations."""

import math
from typing import Any

import numpy as np
import pytest

from tvmopt import MaxDrop, Metric, UsageError
from tvmopt.plugins import Plugins
from tvmopt_plugins.metrics import F1, Agreement, Cosine, Mse, Perplexity, Sqnr, Top1, Top5
from tvmopt_plugins.metrics import RankCorrelation as Spearman

RNG = np.random.default_rng(0)


def value(metric: Metric, outputs: Any, references: Any, batch: int = 7) -> float:
    """Of data that comes in batches."""
    for start in range(0, len(outputs), batch):
        metric.update(outputs[start : start + batch], references[start : start + batch])
    return metric.value()


@pytest.fixture
def scores() -> Any:
    return RNG.standard_normal((40, 12)).astype(np.float32)


@pytest.fixture
def labels() -> Any:
    return RNG.integers(0, 12, 40)


def test_top_k_counts_labels_among_the_highest_scores(scores: Any, labels: Any):
    order = np.argsort(-scores, 1)
    for metric, k in ((Top1(), 1), (Top5(), 5)):
        expected = 100 * np.mean(
            [label in row[:k] for label, row in zip(labels, order, strict=True)]
        )
        assert value(metric, scores, labels) == pytest.approx(expected)


def test_of_equal_scores_the_first_is_chosen_as_argmax_does():
    assert value(Top1(), np.zeros((3, 4), np.float32), np.array([0, 1, 3])) == pytest.approx(
        100 / 3
    )


def test_a_score_of_nan_is_no_hit():
    scores = np.full((2, 10), np.nan, np.float32)
    assert value(Top5(), scores, np.array([0, 1])) == 0


def test_labels_of_tokens_and_pixels_are_judged_but_for_those_to_ignore():
    tokens = RNG.standard_normal((2, 5, 6)).astype(np.float32)
    labels = tokens.argmax(2)
    labels[0, 0] = (labels[0, 0] + 1) % 6
    labels[1, 1:] = -100
    assert value(Top1(), tokens, labels) == pytest.approx(100 * 5 / 6)
    assert value(Top1(axis=1), np.moveaxis(tokens, 2, 1), labels) == pytest.approx(100 * 5 / 6)


def test_f1_is_the_average_over_classes_that_occur():
    chosen, labels = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    scores = np.eye(5, dtype=np.float32)[chosen]
    # TP, FP, FN: class 0: 1, 1, 1; class 1: 2, 0, 1; class 2: 1, 1, 0; 3 and 4 do not occur
    expected = 100 * np.mean([2 / 4, 4 / 5, 2 / 3])
    assert value(F1(), scores, labels, batch=4) == pytest.approx(expected)


def test_perplexity_of_equal_scores_is_the_number_of_tokens_to_choose_from():
    assert value(Perplexity(), np.zeros((4, 3, 50)), np.ones((4, 3), int)) == pytest.approx(50)


def test_perplexity_is_the_exponential_of_the_mean_likelihood():
    logits = 100 * RNG.standard_normal((3, 8, 20))  # exp of these overflows float32
    labels = RNG.integers(0, 20, (3, 8))
    p = np.exp(logits - logits.max(2, keepdims=True))
    p /= p.sum(2, keepdims=True)
    picked = np.take_along_axis(p, labels[..., None], 2)
    assert value(Perplexity(), logits, labels) == pytest.approx(math.exp(-np.log(picked).mean()))
    shifted = np.concatenate([np.zeros((3, 1), int), labels[:, :-1]], 1)
    expected = math.exp(-np.log(picked[:, :-1]).mean())
    assert value(Perplexity(shift=True), logits, shifted) == pytest.approx(expected)


def test_agreement_is_with_the_original(scores: Any):
    other = scores.copy()
    other[:10] = -other[:10]
    expected = 100 * np.mean(other.argmax(1) == scores.argmax(1))
    assert value(Agreement(), other, scores) == pytest.approx(expected)


def test_rank_correlation_is_spearmans_of_the_similarities_of_pairs():
    theirs = RNG.standard_normal((12, 8))
    ours = theirs + 0.3 * RNG.standard_normal((12, 8))
    pairs = [(i, j) for i in range(12) for j in range(i)]

    def ranks(rows: Any) -> Any:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.argsort(np.argsort([unit[i] @ unit[j] for i, j in pairs]))

    expected = np.corrcoef(ranks(ours), ranks(theirs))[0, 1]
    assert value(Spearman(), ours, theirs) == pytest.approx(expected)
    assert value(Spearman(), 3 * theirs, theirs) == pytest.approx(1)
    # Tokens are averaged, and what is beyond the bound is left out.
    tokens = np.stack([ours - 1, ours + 1], 1)
    both = np.stack([theirs, theirs], 1)
    assert value(Spearman(), tokens, both) == pytest.approx(expected)
    few = value(Spearman(samples=5), ours, theirs)
    assert few == pytest.approx(value(Spearman(), ours[:5], theirs[:5]))


def test_equal_similarities_share_their_rank():
    same = np.ones((4, 3))
    assert math.isnan(value(Spearman(), same, RNG.standard_normal((4, 3))))


def test_noise_is_measured_against_the_original(scores: Any):
    noisy = scores + np.float32(0.01) * RNG.standard_normal(scores.shape).astype(np.float32)
    noise = (noisy.astype(np.float64) - scores) ** 2
    signal = scores.astype(np.float64) ** 2
    sqnr, mse, cosine = Sqnr(), Mse(), Cosine()
    assert value(sqnr, noisy, scores) == pytest.approx(10 * np.log10(signal.sum() / noise.sum()))
    assert value(mse, noisy, scores) == pytest.approx(noise.mean())
    each = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(noisy, scores, strict=True)
    ]
    assert value(cosine, noisy, scores) == pytest.approx(np.mean(each))
    share = noise.sum() / signal.sum()
    assert sqnr.drop(Sqnr.perfect, relative=True) == pytest.approx(share)
    assert mse.drop(Mse.perfect, relative=True) == pytest.approx(share)
    assert mse.drop(Mse.perfect, relative=False) == pytest.approx(noise.mean())
    with pytest.raises(UsageError, match="noise's share of the signal"):
        sqnr.drop(Sqnr.perfect, relative=False)


def test_a_drop_is_what_is_worse_and_none_where_it_is_better():
    top1, perplexity = Top1(), Perplexity()
    value(top1, np.eye(10, dtype=np.float32), np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0]))  # 80 %
    assert top1.drop(100, relative=False) == pytest.approx(20)
    assert top1.drop(100, relative=True) == pytest.approx(0.2)
    assert top1.drop(75, relative=False) == pytest.approx(-5)
    value(perplexity, np.zeros((1, 4, 11)), np.zeros((1, 4), int))
    assert perplexity.drop(10, relative=True) == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(Plugins.load().metrics))
def test_the_original_is_as_good_as_it_gets(name: str, scores: Any):
    metric = Plugins.load().metric(name)()
    if metric.needs_labels:
        assert math.isnan(metric.perfect)
        return
    assert value(metric, scores, scores) == pytest.approx(metric.perfect)
    assert metric.drop(metric.perfect, relative=True) == pytest.approx(0)


@pytest.mark.parametrize("name", sorted(Plugins.load().metrics))
def test_of_nothing_there_is_no_value(name: str):
    assert math.isnan(Plugins.load().metric(name)().value())


BAD = [
    (np.zeros((4, 3)), np.zeros(5, int), "want labels of shape [4], got [5]"),
    (np.zeros((4, 3)), np.full(4, 3), "there are 3 classes, and labels 3 to 3"),
    (np.zeros((4, 3)), np.zeros(4), "labels are whole numbers, got float64"),
]


@pytest.mark.parametrize(("scores", "labels", "message"), BAD)
def test_labels_that_do_not_fit_are_refused(scores: Any, labels: Any, message: str):
    with pytest.raises(ValueError, match="labels") as caught:
        Top1().update(scores, labels)
    assert message in str(caught.value)


def test_limits_are_read_as_they_are_written():
    assert MaxDrop.parse("1%") == MaxDrop(0.01, relative=True)
    assert MaxDrop.parse("0.3") == MaxDrop(0.3, relative=False)
    assert [str(MaxDrop.parse(text)) for text in ("0.5%", "2")] == ["0.5%", "2"]
    for text in ("-1", "1 %%", "inf", "nan%", ""):
        with pytest.raises(UsageError, match="a drop is a share such as 1%"):
            MaxDrop.parse(text)


def test_a_misspelt_metric_gets_the_nearest_name():
    with pytest.raises(UsageError, match="no metric is called 'cosin'") as caught:
        Plugins.load().metric("cosin")
    assert caught.value.hint == "did you mean 'cosine'?"
    with pytest.raises(UsageError, match="is called 'axs'"):
        Plugins.load().metric("top1:axs=1")
