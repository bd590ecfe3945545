"""What each layer loses when it is quantized, and what the model loses when it alone is."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np

from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.importer import ImportedModel
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.switches import Switch, with_switches
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import ModelError
from tvmopt.model import TensorSpec
from tvmopt.passes import CompileContext
from tvmopt.plugins import Plugins
from tvmopt.report import QuantizedLayer
from tvmopt.rewriting import dtype_of, shape_of

_MOST_SAMPLES = 4
_RUNS = 200
"""Runs of the model that a compilation may spend: with many layers there are fewer samples."""

Progress = Callable[[int, int], None]
"""Is told how many runs are done, and of how many."""


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer alone does.

    Attributes:
        nodes: names of the ONNX nodes that it computes.
        op: such as `conv2d`.
        sqnr_db: signal to noise of the layer's own result, in dB; infinite without noise.
        effect_db: the same of the model's outputs, of the one with the least.
    """

    nodes: tuple[str, ...]
    op: str
    sqnr_db: float
    effect_db: float


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer at a time does, and all of them.

    Attributes:
        layers: in the order of execution.
        outputs_db: signal to noise of each output of floats in dB, all layers quantized, by name.
        batches: how many batches were run.
    """

    layers: tuple[LayerSensitivity, ...]
    outputs_db: Mapping[str, float]
    batches: int

    def worst_first(self) -> list[LayerSensitivity]:
        """The layers by their effect on the outputs."""
        return sorted(self.layers, key=lambda one: (one.effect_db, one.sqnr_db))

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON-serializable data, the worst layer first."""
        layers = [asdict(one) for one in self.worst_first()]
        return {"batches": self.batches, "outputs_db": dict(self.outputs_db), "layers": layers}

    def fill(self, layers: Sequence[QuantizedLayer]) -> list[QuantizedLayer]:
        """The account of quantization with these figures."""
        found = {(one.nodes, one.op): one for one in self.layers}
        return [
            replace(layer, sqnr_db=one.sqnr_db, sensitivity=one.effect_db)
            if (one := found.get((layer.nodes, layer.op))) is not None
            else layer
            for layer in layers
        ]


@dataclass
class Noise:
    """Signal and noise of a tensor, added up over samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, ours: Array, exact: Array) -> None:
        """Takes in one sample; elements that are not finite in both are left out."""
        a, b = ours.astype(np.float64).reshape(-1), exact.astype(np.float64).reshape(-1)
        difference = a - b
        finite = np.isfinite(difference)
        if not finite.all():
            b, difference = b[finite], difference[finite]
        self.signal += float(b @ b)
        self.noise += float(difference @ difference)

    @property
    def ratio_db(self) -> float:
        """`10 log10(signal / noise)`: infinite without noise."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


@dataclass(frozen=True)
class SwitchedModel:
    """A quantized model that runs with any choice of its layers in floats, compiled once.

    Attributes:
        switches: the layers, in the order of execution.
        outputs: the model's outputs.
        executor: what runs it.
    """

    switches: tuple[Switch, ...]
    outputs: Sequence[TensorSpec]
    executor: Executor

    @classmethod
    def of(cls, ctx: CompileContext, plugins: Plugins, imported: ImportedModel) -> Self:
        """Compiles it for this machine.

        Args:
            ctx: of a compilation whose passes up to the stage QUANTIZE have run.
            plugins: for the passes after it.
            imported: the original.

        Raises:
            ModelError: nothing is quantized.
        """
        if ctx.simulated is None or ctx.unquantized is None:
            raise ModelError(f"nothing in '{ctx.request.source.path}' is quantized")
        switched = with_switches(ctx.simulated, ctx.unquantized)
        flags = [TensorSpec(_flag(index), (), "bool") for index in range(len(switched.switches))]
        results = [
            TensorSpec(f"result{index}", shape_of(var) or (), dtype_of(var))
            for index, var in enumerate(switched.results)
        ]
        specs = [*imported.inputs, *flags], [*imported.outputs, *results]
        executor = simulation(switched.module, ctx.request, plugins, *specs)
        return cls(switched.switches, imported.outputs, executor)

    def run(
        self, inputs: Mapping[str, Array], quantized: Collection[int]
    ) -> tuple[list[Array], list[Array]]:
        """Runs one batch with these layers quantized, and all others in floats.

        Returns the model's outputs and the result of each layer, lent until the next run.
        """
        flags = {_flag(i): np.array(i in quantized) for i in range(len(self.switches))}
        arrays = self.executor.run_lent({**inputs, **flags}, default_threads())
        return arrays[: len(self.outputs)], arrays[len(self.outputs) :]

    def simulate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name, all layers quantized."""
        outputs, _ = self.run(inputs, range(len(self.switches)))
        named = zip(self.outputs, outputs, strict=True)
        return {spec.name: array.copy() for spec, array in named}


def analyze_sensitivity(
    ctx: CompileContext,
    plugins: Plugins,
    imported: ImportedModel,
    batches: Iterable[Mapping[str, Array]],
    samples: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Sensitivity:
    """Compiles the switched model and measures; the report's account takes the figures in.

    Args:
        ctx: of a compilation whose passes up to the stage QUANTIZE have run.
        plugins: for the passes after it.
        imported: the original.
        batches: inputs of the model, such as calibration data.
        samples: of them, at most so many are used; by default `samples_of` the model.
        progress: is told the runs that are done.

    Raises:
        ModelError: nothing is quantized.
    """
    found = measure(SwitchedModel.of(ctx, plugins, imported), batches, samples, progress)
    ctx.report.quantization[:] = found.fill(ctx.report.quantization)
    return found


def measure(
    model: SwitchedModel,
    batches: Iterable[Mapping[str, Array]],
    samples: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Sensitivity:
    """Quantizes one layer after the other, alone; memory does not grow with the samples.

    Args:
        model: the layers.
        batches: inputs of the model.
        samples: of them, at most so many are used; by default `samples_of` the model.
        progress: is told the runs that are done.
    """
    count = len(model.switches)
    samples = samples_of(model) if samples is None else samples
    own = [Noise() for _ in range(count)]
    effects = [_Outputs(model.outputs) for _ in range(count)]
    together = _Outputs(model.outputs)
    ran = done = 0
    for batch in islice(batches, samples):
        ran += 1
        outputs, results = ([np.array(one) for one in arrays] for arrays in model.run(batch, ()))
        together.add(model.run(batch, range(count))[0], outputs)
        for index in range(count):
            ours, mine = model.run(batch, {index})
            own[index].add(mine[index], results[index])
            effects[index].add(ours, outputs)
            done += 1
            progress(done, count * samples)
    layers = tuple(
        LayerSensitivity(one.nodes, one.op, noise.ratio_db, effect.worst_db)
        for one, noise, effect in zip(model.switches, own, effects, strict=True)
    )
    return Sensitivity(layers, together.ratios_db, ran)


def samples_of(model: SwitchedModel) -> int:
    """Batches to measure on where the user does not say how many."""
    return min(_MOST_SAMPLES, max(1, _RUNS // max(1, len(model.switches))))


class _Outputs:
    """The noise of each output that is one of floats."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._noises = [Noise() for _ in outputs]
        self._specs = outputs

    def add(self, ours: Sequence[Array], exact: Sequence[Array]) -> None:
        for noise, spec, one, other in zip(self._noises, self._specs, ours, exact, strict=True):
            if "float" in spec.dtype:
                noise.add(one, other)

    @property
    def ratios_db(self) -> dict[str, float]:
        return {
            spec.name: noise.ratio_db
            for noise, spec in zip(self._noises, self._specs, strict=True)
            if "float" in spec.dtype
        }

    @property
    def worst_db(self) -> float:
        return min(self.ratios_db.values(), default=math.inf)


def _flag(index: int) -> str:
    return f"switch{index}"
