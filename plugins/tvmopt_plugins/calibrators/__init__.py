"""Calibrators: which floats of an activation its 8-bit integers shall cover."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tvmopt import Calibrator, UsageError, hookimpl

if TYPE_CHECKING:
    import numpy.typing as npt

    from tvmopt_plugins.calibrators.histogram import Histogram

    Array = npt.NDArray[Any]


@dataclass
class MinMax(Calibrator):
    """Everything that was seen: nothing saturates."""

    name: ClassVar[str] = "minmax"

    def update(self, values: "Array", low: float, high: float) -> None:
        pass

    def range(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass
class MovingAverage(Calibrator):
    """Averages of the samples' smallest and largest values: one odd sample counts little.

    Attributes:
        weight: of the newest sample in the average, once so many were seen that a plain mean would
            give it less.
    """

    name: ClassVar[str] = "moving-average"
    weight: float = 0.01
    mean_low: float = field(default=0.0, init=False)
    mean_high: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share(self, "weight", self.weight, 1.0)

    def update(self, values: "Array", low: float, high: float) -> None:
        share = max(self.weight, 1 / self.samples)
        self.mean_low += share * (low - self.mean_low)
        self.mean_high += share * (high - self.mean_high)

    def range(self) -> tuple[float, float]:
        return self.mean_low, self.mean_high


@dataclass
class _OfHistogram(Calibrator):
    histogram: "Histogram | None" = field(default=None, init=False, repr=False)

    def update(self, values: "Array", low: float, high: float) -> None:
        from tvmopt_plugins.calibrators.histogram import Histogram

        if self.histogram is None:
            self.histogram = Histogram.covering(low, high)
        self.histogram.add(values, low, high)

    def _clipped(self, low: float, high: float) -> tuple[float, float]:
        """A range of bins, without what lies beyond anything that was seen."""
        return max(low, self.low), min(high, self.high)


@dataclass
class Percentile(_OfHistogram):
    """All but the most extreme values.

    Attributes:
        percentile: per cent of the values that are covered; what is cut lies half on either side,
            or all above where nothing is negative.
    """

    name: ClassVar[str] = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share(self, "percentile", self.percentile, 100.0)

    def range(self) -> tuple[float, float]:
        assert self.histogram is not None
        cut = 1 - self.percentile / 100
        below = 0.0 if self.low >= 0 else cut / 2
        above = 0.0 if self.high <= 0 else cut - below
        return self._clipped(self.histogram.quantile(below), self.histogram.quantile(1 - above))


@dataclass
class Entropy(_OfHistogram):
    """Least loss of information (KL divergence) between the values and their 8-bit steps.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """

    name: ClassVar[str] = "entropy"

    def range(self) -> tuple[float, float]:
        from tvmopt_plugins.calibrators.search import least_divergence

        assert self.histogram is not None
        threshold = least_divergence(self.histogram)
        return self._clipped(-threshold, threshold)


@dataclass
class Mse(_OfHistogram):
    """Least squared error of the values after rounding and saturation to 8 bits."""

    name: ClassVar[str] = "mse"

    def range(self) -> tuple[float, float]:
        from tvmopt_plugins.calibrators.search import least_squares

        assert self.histogram is not None
        return least_squares(self.histogram, self.low, self.high)


def _check_share(calibrator: Calibrator, name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        message = f"option '{name}' of calibrator '{calibrator.name}' lies above 0 and up to"
        raise UsageError(f"{message} {most:g}, got {value:g}")


@hookimpl
def tvmopt_register_calibrators() -> list[type[Calibrator]]:
    return [MinMax, MovingAverage, Percentile, Entropy, Mse]
