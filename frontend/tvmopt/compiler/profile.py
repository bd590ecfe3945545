"""Where the time goes: the time of each kernel call, its prediction, and its roofline."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmopt.compiler.bandwidth import read_gbytes_per_s
from tvmopt.compiler.benchmark import benchmark_alternating
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.peak import CorePeak, core_peak
from tvmopt.compiler.threads import check_threads
from tvmopt.errors import UsageError
from tvmopt.report import Layer

if TYPE_CHECKING:
    from tvmopt.compiler.package import Package


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer.

    Attributes:
        layer: the kernel call, as the report has it.
        time_us: median over the runs, in microseconds.
        share: part of all layers' time, from 0 to 1.
        gflops: operations per nanosecond, of integers, too; 0 for pure data movement.
        peak_share: `gflops` over the measured peak of the cores used, for the type of the
            operands, from 0 to 1.
        gbytes_per_s: bytes of its inputs and outputs per nanosecond, caches included.
        roofline_us: the least time that the machine's measured peaks allow.
        predicted_us: what the schedule's cost model expects; None where it has no prediction.
    """

    layer: Layer
    time_us: float
    share: float
    gflops: float
    peak_share: float
    gbytes_per_s: float
    roofline_us: float
    predicted_us: float | None

    @property
    def lost_us(self) -> float:
        """Time above the roofline."""
        return max(self.time_us - self.roofline_us, 0.0)

    @property
    def roofline_share(self) -> float:
        """The roofline's part of the time, from 0 to 1: 1 is as fast as the machine allows."""
        return min(self.roofline_us / self.time_us, 1.0) if self.time_us else 1.0


@dataclass(frozen=True)
class Profile:
    """The times of all layers, in order of execution.

    Attributes:
        layers: one row for each kernel call.
        total_us: median latency of the whole model, measured without instruments.
        layers_us: sum of the layers' times.
        threads: how many threads the kernels used.
        peak: what one core can do.
    """

    layers: tuple[LayerTime, ...]
    total_us: float
    layers_us: float
    threads: int
    peak: CorePeak

    @property
    def roofline_us(self) -> float:
        """Sum of the layers' rooflines."""
        return sum(row.roofline_us for row in self.layers)

    def worst(self, count: int = 3) -> list[LayerTime]:
        """The layers that lose most time against their rooflines, the worst first."""
        rows = sorted(self.layers, key=lambda row: row.lost_us, reverse=True)
        return [row for row in rows[:count] if row.lost_us > 0]

    @property
    def overhead_us(self) -> float:
        """What is spent between kernels: the VM, allocation, and checks of inputs."""
        return max(self.total_us - self.layers_us, 0.0)

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON-serializable data."""
        rows = [
            {
                "nodes": list(row.layer.nodes),
                "op": row.layer.op,
                "products": row.layer.products,
                "kernel": row.layer.kernel,
                "schedule": row.layer.schedule,
                "fallback": row.layer.fallback,
                "time_us": row.time_us,
                "share": row.share,
                "gflops": row.gflops,
                "peak_share": row.peak_share,
                "gbytes_per_s": row.gbytes_per_s,
                "predicted_us": row.predicted_us,
                "roofline_us": row.roofline_us,
                "roofline_share": row.roofline_share,
            }
            for row in self.layers
        ]
        return {
            "total_us": self.total_us,
            "layers_us": self.layers_us,
            "overhead_us": self.overhead_us,
            "roofline_us": self.roofline_us,
            "worst": [list(row.layer.nodes) for row in self.worst()],
            "threads": self.threads,
            "core_peak_gflops": self.peak.gflops,
            "core_peak_bfloat16_gflops": self.peak.bfloat16_gflops,
            "core_peak_int8_gops": self.peak.int8_gops,
            "core_copy_gbytes_per_s": self.peak.gbytes_per_s,
            "layers": rows,
        }


def profile_package(
    package: "Package",
    inputs: Mapping[str, Array] | None = None,
    *,
    repeat: int = 10,
    warmup: int = 3,
    threads: int | None = None,
) -> Profile:
    """Measures a package layer by layer.

    Args:
        package: what to measure.
        inputs: by default `package.sample_inputs()`.
        repeat: runs that each time is the median of.
        warmup: runs before them.
        threads: how many to use; by default one for each physical core.
    """
    if repeat < 1:
        raise UsageError(f"repeat must be at least 1, got {repeat}")
    count = check_threads(threads)
    given = package.sample_inputs() if inputs is None else inputs
    run = package.bind(given, count)
    whole = benchmark_alternating({"": run}, repeat=repeat, warmup=warmup)[""]
    peak = core_peak(package.manifest.target)
    times = time_layers(package.executor, package.report.layers, given, count, repeat, warmup)
    total = sum(times) or 1.0
    limits = Limits(package, peak, count)
    rows = tuple(
        _row(layer, time_us, total, limits)
        for layer, time_us in zip(package.report.layers, times, strict=True)
    )
    return Profile(rows, whole.p50_us, sum(times), count, peak)


def time_layers(
    executor: Executor,
    layers: Sequence[Layer],
    inputs: Mapping[str, Array],
    threads: int,
    repeat: int,
    warmup: int,
) -> list[float]:
    """The median time of each layer in microseconds, less the instrument's own."""
    table = layer_times(executor, layers, inputs, threads, repeat, warmup)
    return [float(time_us) for time_us in np.median(table, axis=0)]


def layer_times(
    executor: Executor,
    layers: Sequence[Layer],
    inputs: Mapping[str, Array],
    threads: int,
    repeat: int,
    warmup: int,
) -> Array:
    """The times of all layers in microseconds, less the instrument's own: `[repeat, layers]`."""
    stopwatch = _Stopwatch({layer.kernel for layer in layers})
    executor.run_instrumented(inputs, threads, stopwatch, runs=warmup + repeat)
    calls = len(layers) * (warmup + repeat)
    assert len(stopwatch.kernel_ns) == calls, "the report does not list the kernel calls in order"
    table = np.array(stopwatch.kernel_ns, float).reshape(warmup + repeat, -1)[warmup:]
    own_ns = float(np.median(stopwatch.idle_ns)) if stopwatch.idle_ns else 0.0
    return np.maximum(table - own_ns, 0.0) / 1000


class _Stopwatch:
    """A VM instrument. `vm.builtin.null_value` does nothing: it tells what the watch costs."""

    def __init__(self, kernels: set[str]) -> None:
        self.kernels = kernels
        self.kernel_ns: list[int] = []
        self.idle_ns: list[int] = []
        self._start = 0

    def __call__(
        self, _func: object, name: str, is_before: int, _result: object, *_arguments: object
    ) -> None:
        now = time.perf_counter_ns()
        if not is_before:
            if name in self.kernels:
                self.kernel_ns.append(now - self._start)
            elif name == "vm.builtin.null_value":
                self.idle_ns.append(now - self._start)
        self._start = time.perf_counter_ns()


class Limits:
    """The least time of layers on this machine, and what their schedules expected.

    Operations run at the cores' peak for their type. Meanwhile weights come from where all weights
    of the model fit, and activations from where the layer's own fit: each at the measured rate of
    reading an array of that size. What is fused away, or never leaves a cache, costs nothing here:
    no schedule is below the line.
    """

    def __init__(self, package: "Package", peak: CorePeak, threads: int) -> None:
        self._target = package.manifest.target
        self._threads = threads
        self._weight_bytes = sum(layer.weight_bytes for layer in package.report.layers)
        self._flops_per_cycle = package.report.flops_per_cycle
        self._peak = peak

    def roofline_us(self, layer: Layer) -> float:
        """The least time of a layer in microseconds."""
        activation_bytes = layer.bytes_moved - layer.weight_bytes
        moving_ns = layer.weight_bytes / self._rate(self._weight_bytes)
        moving_ns += activation_bytes / self._rate(activation_bytes)
        return max(layer.flops / self.gflops(layer), moving_ns) / 1000

    def gflops(self, layer: Layer) -> float:
        """The peak of the cores used."""
        return self._peak.of(layer.products) * self._threads

    def predicted_us(self, layer: Layer) -> float | None:
        """The prediction in microseconds; None where there is none.

        The measured peak tells how long a cycle is.
        """
        if not layer.predicted_cycles or not self._flops_per_cycle:
            return None
        busiest = -(-layer.pieces // self._threads) / layer.pieces
        cycles_per_ns = self._peak.gflops / self._flops_per_cycle
        return layer.predicted_cycles * busiest / cycles_per_ns / 1000

    def _rate(self, size_bytes: int) -> float:
        counts = {1, self._threads}  # little is read faster by one thread than by several
        return max(read_gbytes_per_s(self._target, size_bytes, count) for count in counts)


def _row(layer: Layer, time_us: float, total_us: float, limits: Limits) -> LayerTime:
    per_ns = 1 / (time_us * 1000) if time_us else 0.0
    gflops = layer.flops * per_ns
    return LayerTime(
        layer,
        time_us,
        time_us / total_us,
        gflops,
        gflops / limits.gflops(layer),
        layer.bytes_moved * per_ns,
        limits.roofline_us(layer),
        limits.predicted_us(layer),
    )
