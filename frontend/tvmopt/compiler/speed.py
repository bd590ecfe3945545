"""Two packages of one model against each other: as wholes, and where their kernels lose."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvmopt.compiler.benchmark import Runner, benchmark_alternating
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.profile import layer_times
from tvmopt.report import Layer

SECONDS = 3.0
"""What one comparison of wholes may take, and one of kernels; slow models take `_LEAST_ROUNDS`."""

_LEAST_ROUNDS, _MOST_ROUNDS = 7, 40
_TURN_US = 2000.0
"""A turn of a small model has as many runs as fit: clocks and wake-ups take microseconds."""

_LAYER_ROUNDS = 5
_SURE = 0.8
"""The share of the rounds that must agree before something is called slower."""

WHOLE_MARGIN = 0.03
"""What a whole may take longer and count as equal. Medians of MobileNetV2 in int8 against itself,
on two cores with a load of 19, were 1 % apart with one thread and up to 10 % with two, which nearly
all rounds did not agree on; of its 54 groups of kernels none was called slower."""

_LAYER_MARGIN = 0.1


@dataclass(frozen=True)
class Ratios:
    """Times of one over those of another.

    Attributes:
        values: by round.
        least: of the shortest time of each. Other programs only ever add to times: where they take
            most of the machine, medians of equal programs were apart by a factor of three.
    """

    values: tuple[float, ...]
    least: float

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.values))

    @property
    def highest(self) -> float:
        """The ratio of the medians or of the shortest times, whichever is worse."""
        return max(self.median, self.least)

    def is_above(self, limit: float) -> bool:
        """Whether medians and shortest times are, and nearly all rounds are above 1."""
        slower = np.mean(np.array(self.values) > 1)
        return min(self.median, self.least) > limit and bool(slower >= _SURE)


@dataclass(frozen=True)
class Group:
    """Kernels of both packages that together compute the same ONNX nodes.

    Attributes:
        nodes: of the kernels of either.
        float_us: median time of one package's kernels, in microseconds.
        int8_us: that of the other's.
        ratios: int8 over float.
    """

    nodes: frozenset[str]
    float_us: float
    int8_us: float
    ratios: Ratios

    @property
    def loses(self) -> bool:
        """Whether int8 is slower beyond doubt."""
        return self.ratios.is_above(1 + _LAYER_MARGIN)

    @property
    def lost_us(self) -> float:
        """What int8 takes longer, in microseconds."""
        return self.int8_us - self.float_us


@dataclass(frozen=True)
class KernelTimes:
    """One package to compare kernel by kernel: its calls, and a time for each by round.

    Attributes:
        layers: its kernel calls.
        rounds: in microseconds, `[rounds, layers]`.
    """

    layers: Sequence[Layer]
    rounds: Array

    @property
    def whole_us(self) -> float:
        """Median time of all kernels, in microseconds."""
        return float(np.median(self.rounds.sum(axis=1)))

    def of(self, nodes: Collection[str]) -> float:
        """Median time of the kernels that compute any of these nodes, in microseconds."""
        mine = [any(node in nodes for node in layer.nodes) for layer in self.layers]
        return float(np.median(self.rounds[:, mine].sum(axis=1)))


def compare_wholes(
    executors: Mapping[str, Executor],
    inputs: Mapping[str, Array],
    threads: int,
    seconds: float = SECONDS,
) -> dict[str, tuple[float, ...]]:
    """Latencies in microseconds by name, taken in turns: those of one round belong together."""
    runners = {name: one.bind(inputs, threads) for name, one in executors.items()}
    slowest_us = max(_latency_us(run) for run in runners.values())
    number = max(1, int(_TURN_US / slowest_us))
    # In its turn a program runs once more than is counted.
    round_us = (number + 1) * slowest_us * len(runners)
    repeat = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(seconds * 1e6 / round_us)))
    results = benchmark_alternating(runners, repeat=repeat, number=number, warmup=1)
    return {name: one.latencies_us for name, one in results.items()}


def ratios_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratios:
    """Those of times that were taken in turns."""
    values = np.array(ours) / np.array(theirs)
    return Ratios(tuple(values.tolist()), min(ours) / min(theirs))


def time_kernels(
    packages: Sequence[tuple[Executor, Sequence[Layer]]],
    inputs: Mapping[str, Array],
    threads: int,
    seconds: float = SECONDS,
) -> list[KernelTimes]:
    """Times each kernel of several packages, in turns; a round's time is the shortest of some."""
    whole_us = sum(_latency_us(one.bind(inputs, threads)) for one, _ in packages)
    repeat = min(_MOST_ROUNDS, max(2, int(seconds * 1e6 / whole_us / _LAYER_ROUNDS)))
    rounds: list[list[Array]] = [[] for _ in packages]
    for _ in range(_LAYER_ROUNDS):
        for found, (executor, layers) in zip(rounds, packages, strict=True):
            times = layer_times(executor, layers, inputs, threads, repeat, warmup=1)
            found.append(times.min(axis=0))
    pairs = zip(packages, rounds, strict=True)
    return [KernelTimes(layers, np.array(found)) for (_, layers), found in pairs]


def grouped(in_float: KernelTimes, in_int8: KernelTimes) -> list[Group]:
    """Both packages' kernels joined by the nodes that they share; those without nodes are not."""
    layers = [*in_float.layers, *in_int8.layers]
    rounds = np.concatenate([in_float.rounds, in_int8.rounds], axis=1)
    is_int8 = np.arange(len(layers)) >= len(in_float.layers)
    found: list[Group] = []
    for nodes in connected(layer.nodes for layer in layers):
        mine = np.array([not nodes.isdisjoint(layer.nodes) for layer in layers])
        theirs_us, ours_us = (rounds[:, mine & kind].sum(axis=1) for kind in (~is_int8, is_int8))
        if not (theirs_us.all() and ours_us.all()):
            continue  # computed by one of them only, or too short for the clock
        ratios = ratios_of(ours_us.tolist(), theirs_us.tolist())
        times = float(np.median(theirs_us)), float(np.median(ours_us))
        found.append(Group(nodes, *times, ratios))
    return found


def connected(sets: Iterable[Collection[str]]) -> list[frozenset[str]]:
    """The connected components of names that stand in a set together."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name] = parents[parents[name]]
        return name

    for names in sets:
        for name in names:
            parents.setdefault(name, name)
        roots = [root(name) for name in names]
        for one in roots[1:]:
            parents[root(one)] = root(roots[0])
    components: dict[str, set[str]] = defaultdict(set)
    for name in parents:
        components[root(name)].add(name)
    return [frozenset(names) for names in components.values()]


def _latency_us(run: Runner) -> float:
    run()
    (result,) = benchmark_alternating({"": run}, repeat=3, warmup=0).values()
    return max(result.min_us, 1.0)
