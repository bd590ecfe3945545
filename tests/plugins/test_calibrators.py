"""Calibrators: what each covers, streamed in memory that does not grow."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt import UsageError
from tvmopt.plugins import Plugins
from tvmopt.quantization import Encoding
from tvmopt_plugins.calibrators import Entropy, MinMax, MovingAverage, Mse, Percentile
from tvmopt_plugins.calibrators.histogram import BINS, Histogram

NAMES = ("minmax", "moving-average", "percentile", "entropy", "mse")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.load()


def error(values: Any, low: float, high: float) -> float:
    rest = values - Encoding.of_range(low, high, "uint8").round_trip(values)
    return float((rest.astype(np.float64) ** 2).mean())


def test_every_calibrator_is_known_by_its_name(plugins: Plugins):
    assert set(NAMES) <= set(plugins.calibrators)


def test_misspelt_calibrator_gets_the_nearest_name(plugins: Plugins):
    with pytest.raises(UsageError, match="no calibrator is called 'entrpy'") as caught:
        plugins.calibrator("entrpy")
    assert caught.value.hint == "did you mean 'entropy'?"


def test_options_of_a_calibrator_are_read_and_checked(plugins: Plugins):
    assert plugins.calibrator("percentile:percentile=99.5")() == Percentile(99.5)
    with pytest.raises(UsageError, match="is called 'percent'") as caught:
        plugins.calibrator("percentile:percent=99")
    assert caught.value.hint == "did you mean 'percentile'?"
    with pytest.raises(UsageError, match="lies above 0 and up to 100, got 101"):
        plugins.calibrator("percentile:percentile=101")
    with pytest.raises(UsageError, match="lies above 0 and up to 1, got 0"):
        plugins.calibrator("moving-average:weight=0")


def test_each_tensor_gets_a_calibrator_of_its_own(plugins: Plugins):
    make = plugins.calibrator("minmax")
    one, two = make(), make()
    one.observe(np.float32([1, 2]))
    two.observe(np.float32([-5, 0]))
    assert (one.range(), two.range()) == ((1.0, 2.0), (-5.0, 0.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_what_is_not_finite_is_refused_and_not_taken_in(
    plugins: Plugins, name: str, bad: float, what: str
):
    one = plugins.calibrator(name)()
    one.observe(np.float32([-1, 0.5, 2]))
    before = one.range()
    with pytest.raises(ValueError, match=what):
        one.observe(np.float32([1, bad, 2]))
    assert one.range() == before
    assert one.samples == 1


STREAMS = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_minmax_covers_everything(stream: list[list[float]]):
    one = MinMax()
    for sample in stream:
        one.observe(np.float32(sample))
    seen = [value for sample in stream for value in sample]
    assert one.range() == (min(seen), max(seen))


@pytest.mark.parametrize("kind", [MovingAverage, Percentile, Entropy, Mse])
@settings(max_examples=40, deadline=None)
@given(stream=STREAMS)
def test_no_calibrator_covers_more_than_was_seen_and_zero(
    kind: type[Any], stream: list[list[float]]
):
    one = kind()
    for sample in stream:
        one.observe(np.float32(sample))
    low, high = one.range()
    seen = [value for sample in stream for value in sample]
    slack = 1e-6 * max(map(abs, seen))
    assert min(*seen, 0) - slack <= low
    assert high <= max(*seen, 0) + slack
    Encoding.of_range(min(low, high), max(low, high), "uint8")


def test_moving_average_is_the_mean_of_the_extremes_at_first():
    one = MovingAverage()
    for scale in (1, 2, 6):
        one.observe(np.float32([-1, 3]) * scale)
    np.testing.assert_allclose(one.range(), (-3.0, 9.0))


def test_moving_average_follows_what_is_new():
    one = MovingAverage(weight=0.5)
    for scale in (1, 1, 1, 9):
        one.observe(np.float32([0, 1]) * scale)
    np.testing.assert_allclose(one.range(), (0.0, 5.0))


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_a_histogram_that_grew_holds_each_value_in_a_bin_that_spans_it(stream: list[list[float]]):
    histogram = Histogram.covering(min(stream[0]), max(stream[0]))
    for sample in stream:
        histogram.add(np.float32(sample), min(sample), max(sample))
    seen = np.sort([value for sample in stream for value in sample])
    assert histogram.counts.sum() == seen.size
    counted = np.repeat(histogram.centers, histogram.counts)
    # Half a bin, and the rounding of the edges.
    np.testing.assert_allclose(counted, seen, atol=0.51 * histogram.width, rtol=1e-6)
    assert len(histogram.counts) == BINS


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.99, 0.9999])
def test_quantiles_are_numpys_within_a_bin(share: float):
    values = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    histogram = Histogram.covering(-1.0, 1.0)  # it grows twice
    histogram.add(values, float(values.min()), float(values.max()))
    assert abs(histogram.quantile(share) - np.quantile(values, share)) < 2 * histogram.width


def test_percentile_cuts_both_tails_and_only_the_upper_one_of_a_relu():
    values = np.linspace(-1, 1, 20_001, dtype=np.float32)
    both, upper = Percentile(90.0), Percentile(90.0)
    both.observe(values)
    upper.observe(np.maximum(values, 0)[values >= 0])
    np.testing.assert_allclose(both.range(), (-0.9, 0.9), atol=2e-3)
    np.testing.assert_allclose(upper.range(), (0.0, 0.9), atol=2e-3)


def test_mse_loses_less_than_minmax_and_than_any_percentile():
    values = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    one, all_of_it = Mse(), MinMax()
    one.observe(values)
    all_of_it.observe(values)
    least = error(values, *one.range())
    assert least < 0.95 * error(values, *all_of_it.range())
    for percentile in (99.0, 99.9, 99.99):
        other = Percentile(percentile)
        other.observe(values)
        # 40 candidates at either end do not hit the best range exactly.
        assert least < 1.05 * error(values, *other.range())


def test_mse_keeps_uniform_values_whole():
    one = Mse()
    one.observe(np.random.default_rng(2).uniform(-1, 3, 50_000).astype(np.float32))
    np.testing.assert_allclose(one.range(), (-1.0, 3.0), atol=0.08)


def test_mse_shrinks_one_end_alone():
    rng = np.random.default_rng(3)
    one = Mse()
    one.observe(np.float32([-1.0, 2.0]))
    for _ in range(20):  # one value of a million does not pay for a third of the steps
        one.observe(rng.uniform(-0.2, 2, 50_000).astype(np.float32))
    low, high = one.range()
    assert low > -0.3
    assert high > 1.9


def divergence(values: Any, threshold: float, bins: int = 2048) -> float:
    """As in Migacz's talk, bin by bin."""
    counts, edges = np.histogram(np.abs(values), bins, (0, np.abs(values).max()))
    kept = int(np.searchsorted(edges, threshold))
    p = counts[:kept].astype(float)
    q = np.zeros(kept)
    for level in np.array_split(np.arange(kept), 128):
        filled = level[counts[level] > 0]
        if filled.size:
            q[filled] = counts[filled].sum() / filled.size
    p[-1] += counts[kept:].sum()
    q[(p > 0) & (q == 0)] = 1e-4
    seen = p > 0
    p, q = p[seen] / p.sum(), q[seen] / q.sum()
    return float((p * np.log(p / q)).sum())


def test_entropy_diverges_less_than_minmax_and_than_half_its_own_range():
    values = np.random.default_rng(4).laplace(size=60_000).astype(np.float32)
    values[0] = 60.0
    one = Entropy()
    one.observe(values)
    low, high = one.range()
    assert -60 < low < 0 < high < 40
    chosen = divergence(values, high)
    assert chosen < divergence(values, 60.0)
    assert chosen < divergence(values, high / 2)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_alone_give_an_encoding_that_works(plugins: Plugins, name: str):
    one = plugins.calibrator(name)()
    one.observe(np.zeros((2, 3), np.float32))
    encoding = Encoding.of_range(*one.range(), "uint8")
    assert encoding.round_trip(np.zeros(2, np.float32)).tolist() == [0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_samples(plugins: Plugins, name: str):
    rng = np.random.default_rng(5)
    one = plugins.calibrator(name)()
    one.observe(rng.standard_normal(1000).astype(np.float32))
    tracemalloc.start()
    try:
        held: list[int] = []
        for count in (20, 200):
            for _ in range(count):
                one.observe(rng.standard_normal(1000).astype(np.float32) * count)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 10_000  # a sample is 4000 bytes, 180 of them 720 000


def test_large_tensors_are_counted_in_part_and_bounded_in_whole():
    values = np.random.default_rng(6).standard_normal(1_000_000).astype(np.float32)
    values[777_777] = 50.0
    one = Percentile()
    one.observe(values)
    assert one.high == 50.0
    assert one.histogram is not None
    assert one.histogram.counts.sum() <= 1 << 16
    _, high = one.range()
    assert abs(high - np.quantile(values, 0.99995)) < 0.3
