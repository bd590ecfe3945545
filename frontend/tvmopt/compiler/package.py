"""The `.tvmpkg`: loaded, run and measured."""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from tvmopt.compiler.archive import (
    ALIGNMENT,
    LIBRARY,
    WEIGHTS,
    ArchiveReader,
)
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.host import check_runs_here
from tvmopt.compiler.manifest import Manifest, read_manifest
from tvmopt.compiler.output import write_error
from tvmopt.compiler.sample_inputs import Fill, sample_inputs
from tvmopt.compiler.threads import check_threads
from tvmopt.model import TensorSpec
from tvmopt.report import Report

if TYPE_CHECKING:
    from tvmopt.compiler.benchmark import BenchmarkResult
    from tvmopt.compiler.profile import Profile


class Package:
    """A compiled model, ready to run on this machine.

    It is made by `Package.load` or `tvmopt.compile`. Threads that share one take turns.
    """

    def __init__(self, path: Path, manifest: Manifest, executor: Executor | None) -> None:
        self.path = path
        self.manifest = manifest
        self._executor = executor

    @classmethod
    def load(cls, path: Path) -> Self:
        """Opens a package, checks all of it, and maps its weights.

        Raises:
            PackageError: damaged, made by a newer tvmopt or another TVM, or for another CPU.
        """
        reader = ArchiveReader(path)
        manifest = read_manifest(reader)
        manifest.check_versions(str(path))
        check_runs_here(manifest.target, str(path))
        for name, member in manifest.members.items():
            reader.check(name, member)
        weights = reader.view(WEIGHTS)
        _check_weights(reader, manifest, weights)
        with tempfile.TemporaryDirectory(prefix="tvmopt-") as folder:
            library = Path(folder) / LIBRARY
            try:
                library.write_bytes(reader.view(LIBRARY))
            except OSError as error:
                raise write_error(None, error) from None
            executor = Executor(
                library, weights, manifest.weights, manifest.inputs, manifest.outputs
            )
        return cls(path, manifest, executor)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""
        return self.manifest.outputs

    @property
    def executor(self) -> Executor:
        """What runs the model.

        Raises:
            PackageError: it was just compiled for another machine than this.
        """
        if self._executor is None:
            check_runs_here(self.manifest.target, str(self.path))
        assert self._executor is not None
        return self._executor

    @property
    def report(self) -> Report:
        """What the compilation did."""
        return self.manifest.report

    @property
    def target(self) -> str:
        """What the package was compiled for, such as `x86-avx2`."""
        return self.manifest.target.name

    def run(self, inputs: Mapping[str, Array], threads: int | None = None) -> dict[str, Array]:
        """Runs the model.

        Args:
            inputs: one array for each input, of exactly its shape and dtype.
            threads: how many to use; by default one for each physical core.

        Returns:
            The outputs by name.

        Raises:
            InputError: an input is missing, unknown, or has another shape or dtype.
        """
        return self.executor.run(inputs, check_threads(threads))

    def bind(
        self, inputs: Mapping[str, Array] | None = None, threads: int | None = None
    ) -> Callable[[], None]:
        """A function that runs the model on fixed inputs and drops the outputs, for measuring."""
        given = self.sample_inputs() if inputs is None else inputs
        return self.executor.bind(given, check_threads(threads))

    def sample_inputs(self, seed: int = 0, fill: Fill = "random") -> dict[str, Array]:
        """Inputs that the model accepts: token ids in range, masks of zeros and ones."""
        return sample_inputs(self.inputs, self.manifest.input_ranges, seed, fill)

    def benchmark(
        self,
        inputs: Mapping[str, Array] | None = None,
        *,
        repeat: int = 50,
        number: int = 1,
        warmup: int = 5,
        threads: int | None = None,
    ) -> "BenchmarkResult":
        """Measures the latency; see `tvmopt.compiler.benchmark.benchmark_alternating`."""
        from tvmopt.compiler.benchmark import benchmark_alternating

        runners = {"tvmopt": self.bind(inputs, threads)}
        results = benchmark_alternating(runners, repeat=repeat, number=number, warmup=warmup)
        return results["tvmopt"]

    def profile(
        self,
        inputs: Mapping[str, Array] | None = None,
        *,
        repeat: int = 10,
        warmup: int = 3,
        threads: int | None = None,
    ) -> "Profile":
        """Measures the time of each layer; see `tvmopt.compiler.profile.profile_package`."""
        from tvmopt.compiler.profile import profile_package

        return profile_package(self, inputs, repeat=repeat, warmup=warmup, threads=threads)

    def __repr__(self) -> str:
        return f"Package({self.manifest.model} for {self.target})"


def _check_weights(reader: ArchiveReader, manifest: Manifest, weights: memoryview) -> None:
    if np.frombuffer(weights, np.uint8).ctypes.data % ALIGNMENT:
        raise reader.damaged(f"its weights are not aligned to {ALIGNMENT} bytes")
    for weight in manifest.weights:
        try:
            size = math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
        except TypeError:
            raise reader.damaged(f"a weight has the unknown type '{weight.dtype}'") from None
        end = weight.offset + size
        is_inside = 0 <= weight.offset <= end <= weights.nbytes
        if weight.offset % ALIGNMENT or not is_inside or min(weight.shape, default=0) < 0:
            raise reader.damaged("its table of weights does not fit its weights")
