"""Never slower in silence: what int8 slows down stays float32, and a whole that loses is told."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvmopt.compiler.accuracy_check import AccuracyCheck
from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.speed import (
    WHOLE_MARGIN,
    Group,
    KernelTimes,
    compare_wholes,
    grouped,
    ratios_of,
    time_kernels,
)
from tvmopt.compiler.threads import default_threads
from tvmopt.report import QuantizedLayer, Remark, Speed

SOURCE = "speed"
"""What remarks name."""

_MOST_COMPILATIONS = 3
_LEAST_SHARE = 0.005
"""Layers that lose less of the whole are not worth a compilation."""

_EQUAL = 1.01
"""Ratio of wholes up to which the one with fewer layers in int8 is taken."""


@dataclass
class SpeedCheck:
    """Measures packages against the one in float32.

    Attributes:
        attempts: makes packages, that in float32 among them.
        inputs: what they run on.
        accuracy: judges packages, where there is a gate.
    """

    attempts: Attempts
    inputs: Mapping[str, Array]
    accuracy: AccuracyCheck | None = None

    def run(self, first: Attempt) -> Attempt:
        """The package whose slow layers are in float32, its times in its report."""
        chosen, kernels = self._without_losers(first)
        layers = chosen.ctx.report.quantization
        layers[:] = [_with_times(layer, *kernels) for layer in layers]
        return self._judged(chosen)

    def _without_losers(self, first: Attempt) -> tuple[Attempt, tuple[KernelTimes, KernelTimes]]:
        """The package to ship, and the times of both packages' kernels."""
        chosen, times = first, self._kernels(first)
        for _ in range(_MOST_COMPILATIONS):
            in_float, in_int8 = times
            losers = [one for one in grouped(in_float, in_int8) if one.loses]
            kept = dict(pair for group in losers for pair in _reasons(group, chosen))
            if not kept or not _leaves_some(chosen, kept):
                break
            lost = sum(group.lost_us for group in losers) / in_float.whole_us
            if lost < _LEAST_SHARE:
                _tell(chosen, kept, f"together such layers take {lost:.1%} of the model's time")
                break
            other = self.attempts.finish({**chosen.ctx.kept_float, **kept})
            if self._ratio(other, chosen) > _EQUAL:
                self.attempts.discard(other)
                _tell(chosen, kept, "with such layers in float32 the whole takes longer")
                break
            if self.accuracy is not None and not self.accuracy.is_as_good(other, chosen):
                self.attempts.discard(other)
                _tell(chosen, kept, "with such layers in float32 the accuracy gate is missed")
                break
            self.attempts.discard(chosen)
            chosen, times = other, self._kernels(other)
        return chosen, times

    def _kernels(self, attempt: Attempt) -> tuple[KernelTimes, KernelTimes]:
        packages = [
            (_executor(one), one.ctx.report.layers) for one in (self.attempts.in_float, attempt)
        ]
        in_float, in_int8 = time_kernels(packages, self.inputs, default_threads())
        return in_float, in_int8

    def _ratio(self, ours: Attempt, theirs: Attempt) -> float:
        executors = {"ours": _executor(ours), "theirs": _executor(theirs)}
        times = compare_wholes(executors, self.inputs, default_threads())
        return ratios_of(times["ours"], times["theirs"]).highest

    def _judged(self, attempt: Attempt) -> Attempt:
        executors = {"float": _executor(self.attempts.in_float), "int8": _executor(attempt)}
        threads = default_threads()
        times = compare_wholes(executors, self.inputs, threads)
        ratios = ratios_of(times["int8"], times["float"])
        ours_us, theirs_us = (
            sorted(times[name])[len(times[name]) // 2] for name in ("int8", "float")
        )
        is_slower = ratios.is_above(1 + WHOLE_MARGIN)
        speed = Speed(theirs_us, ours_us, ratios.median, threads, is_slower)
        said = (
            f"int8 takes {ratios.median:.2f} of the time of float32: {_time(ours_us)} against "
            f"{_time(theirs_us)} (medians of {len(ratios.values)} rounds in turns, "
            f"{threads} threads)"
        )
        attempt.ctx.report.speed = speed
        attempt.ctx.report.remarks.append(Remark("analysis", SOURCE, "", said))
        return self._slower(attempt, speed) if is_slower else attempt

    def _slower(self, attempt: Attempt, speed: Speed) -> Attempt:
        """What is shipped if the whole loses: what the user asked for, and never in silence."""
        lost = (
            f"int8 is slower than float32 on this machine: {_time(speed.int8_us)} against "
            f"{_time(speed.float_us)}"
        )
        if self.attempts.request.if_slower == "keep":
            told = f"{lost}; its package is kept: --if-slower float writes the one in float32"
            attempt.ctx.report.remarks.append(Remark("missed", SOURCE, "", told))
            warnings.warn(told, RuntimeWarning, stacklevel=2)
            return attempt
        report = self.attempts.in_float.ctx.report
        told = f"{lost}; the package is in float32, as --if-slower float asks for"
        report.remarks.append(Remark("missed", SOURCE, "", told))
        report.speed = speed
        why = "the whole model is slower in int8"
        report.quantization[:] = [
            replace(layer, dtype="float32", scheme="", why=layer.why or why)
            for layer in attempt.ctx.report.quantization
        ]
        warnings.warn(told, RuntimeWarning, stacklevel=2)
        return self.attempts.in_float


def _executor(attempt: Attempt) -> Executor:
    assert attempt.draft.executor is not None, "packages are compared where they run"
    return attempt.draft.executor


def _tell(attempt: Attempt, slow: Mapping[str, str], why: str) -> None:
    """Names layers that stay in int8 though they are slower."""
    for node, reason in slow.items():
        message = f"stays int8, but {reason}; {why}"
        attempt.ctx.report.remarks.append(Remark("missed", SOURCE, node, message))


def _reasons(group: Group, attempt: Attempt) -> list[tuple[str, str]]:
    """By node of each layer in int8, why it shall not be."""
    why = f"its kernels take {_time(group.int8_us)} in int8 and {_time(group.float_us)} in float32"
    layers = [nodes for nodes in attempt.quantized if not group.nodes.isdisjoint(nodes)]
    return [(node, why) for nodes in layers for node in nodes]


def _leaves_some(attempt: Attempt, kept: Mapping[str, str]) -> bool:
    """Whether anything stays in int8: a model that loses as a whole is for the user to judge."""
    return any(kept.keys().isdisjoint(nodes) for nodes in attempt.quantized)


def _with_times(
    layer: QuantizedLayer, in_float: KernelTimes, in_int8: KernelTimes
) -> QuantizedLayer:
    us_float, us_int8 = in_float.of(layer.nodes), in_int8.of(layer.nodes)
    if layer.dtype != "int8" or not us_float or not us_int8:
        return layer
    return replace(layer, us_float=us_float, us_int8=us_int8)


def _time(time_us: float) -> str:
    return f"{time_us:.0f} us" if time_us >= 100 else f"{time_us:.1f} us"
