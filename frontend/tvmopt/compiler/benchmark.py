"""Latencies, measured so that several programs can be compared: in one run, taking turns."""

import gc
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmopt.errors import UsageError

Runner = Callable[[], object]
"""Runs a model once, on inputs that it holds."""

_SETTLE_SECONDS = 0.005
"""Pause before another program's turn: workers that spin for the last one are asleep by then."""


@dataclass(frozen=True)
class BenchmarkResult:
    """Latencies of one program in microseconds; each is the mean of `number` runs in a row."""

    name: str
    number: int
    latencies_us: tuple[float, ...]

    @property
    def p50_us(self) -> float:
        """The median."""
        return self.percentile_us(50)

    @property
    def p90_us(self) -> float:
        """What 90 % of the latencies do not exceed."""
        return self.percentile_us(90)

    @property
    def p99_us(self) -> float:
        """What 99 % of the latencies do not exceed."""
        return self.percentile_us(99)

    @property
    def mean_us(self) -> float:
        """The arithmetic mean."""
        return float(np.mean(self.latencies_us))

    @property
    def min_us(self) -> float:
        """The smallest latency."""
        return min(self.latencies_us)

    def percentile_us(self, percent: float) -> float:
        """A percentile, interpolated linearly between the nearest latencies."""
        return float(np.percentile(self.latencies_us, percent))

    def to_json(self) -> dict[str, Any]:
        """The figures and all latencies as JSON-serializable data."""
        return {
            "name": self.name,
            "repeat": len(self.latencies_us),
            "number": self.number,
            "p50_us": self.p50_us,
            "p90_us": self.p90_us,
            "p99_us": self.p99_us,
            "mean_us": self.mean_us,
            "min_us": self.min_us,
            "latencies_us": list(self.latencies_us),
        }


def benchmark_alternating(
    runners: Mapping[str, Runner],
    *,
    repeat: int = 50,
    number: int = 1,
    warmup: int = 5,
    progress: Callable[[int], None] = lambda _round: None,
) -> dict[str, BenchmarkResult]:
    """Measures programs in turns, so that whatever disturbs the machine disturbs all of them.

    In each of `repeat` rounds every runner has one turn, and the order rotates from round to round.
    Where there are several, a turn begins with a pause and a run that is not counted: no program
    pays for another's spinning workers or for caches that another one filled.

    Args:
        runners: by name.
        repeat: rounds, and so latencies for each runner.
        number: runs in a row that one latency is the mean of.
        warmup: runs of each runner before the first round.
        progress: is told the number of each finished round.

    Raises:
        UsageError: a count that is too small.
    """
    for name, count, least in (("repeat", repeat, 1), ("number", number, 1), ("warmup", warmup, 0)):
        if count < least:
            raise UsageError(f"{name} must be at least {least}, got {count}")
    for run in runners.values():
        for _ in range(warmup):
            run()
    names = list(runners)
    latencies: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for index in range(repeat):
            first = index % len(names)
            for name in names[first:] + names[:first]:
                if len(names) > 1:
                    time.sleep(_SETTLE_SECONDS)
                    runners[name]()
                latencies[name].append(_measure(runners[name], number))
            progress(index + 1)
    return {name: BenchmarkResult(name, number, tuple(latencies[name])) for name in names}


def ratios(results: Mapping[str, BenchmarkResult], ours: str = "tvmopt") -> dict[str, float]:
    """Our median over each other program's, by its name: below 1, we are faster."""
    mine = results[ours].p50_us
    return {name: mine / result.p50_us for name, result in results.items() if name != ours}


def _measure(run: Runner, number: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(number):
        run()
    return (time.perf_counter_ns() - start) / number / 1000


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
