"""The `.tvmpkg`: loaded, run and measured; and, while it is being made, a draft of it."""

import contextlib
import errno
import json
import mmap
import os
import platform
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tvmopt.compiler.archive import (
    ALIGNMENT,
    LIBRARY,
    MANIFEST,
    WEIGHTS,
    ArchiveReader,
    ArchiveWriter,
    Member,
    chunks_of,
)
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.host import check_runs_here
from tvmopt.compiler.linking import check_machine, export_library
from tvmopt.compiler.manifest import (
    FORMAT_VERSION,
    Manifest,
    PackageTarget,
    Verification,
    Weight,
    own_version,
)
from tvmopt.compiler.sample_inputs import Fill, read_ranges, sample_inputs
from tvmopt.compiler.threads import check_threads
from tvmopt.errors import TvmoptError
from tvmopt.model import CompileRequest, TensorSpec
from tvmopt.report import Report

if TYPE_CHECKING:
    from tvmopt.compiler.benchmark import BenchmarkResult
    from tvmopt.compiler.build import BuiltModel
    from tvmopt.compiler.importer import ImportedModel
    from tvmopt.compiler.profile import Profile


class Package:
    """A compiled model, ready to run on this machine.

    It is made by `Package.load` or `tvmopt.compile`. One package is not to be run by two threads at
    the same time.
    """

    def __init__(self, path: Path, manifest: Manifest, executor: Executor) -> None:
        self.path = path
        self.manifest = manifest
        self.executor = executor

    @classmethod
    def load(cls, path: Path) -> Self:
        """Opens a package, checks all of it, and maps its weights.

        Raises:
            PackageError: damaged, made by a newer tvmopt or another TVM, or for another CPU.
        """
        reader = ArchiveReader(path)
        manifest = _checked_manifest(reader)
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
                raise _write_error(library, error) from None
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


def read_manifest(path: Path) -> Manifest:
    """What a package says of itself, without making it ready to run, on whatever machine.

    Raises:
        PackageError: it is no intact package, or its format is newer than this tvmopt.
    """
    with ArchiveReader(path) as reader:
        return _checked_manifest(reader)


class PackageDraft:
    """A package while it is written and verified, in a temporary file beside where it goes.

    A context manager: what has not been published is removed, whatever ends the block.
    """

    def __init__(
        self,
        built: "BuiltModel",
        imported: "ImportedModel",
        request: CompileRequest,
        report: Report,
        output: Path | None = None,
    ) -> None:
        self.built = built
        self.imported = imported
        self.request = request
        self.report = report
        self.output = output
        self.verification: Verification | None = None
        self.ranges = read_ranges(request.source.path, imported.inputs)
        self._members: dict[str, Member] = {}
        self._weights: list[Weight] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._cleanup, _write_errors(self.output):
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
            self._library = folder / LIBRARY
            export_library(self.built.executable, self._library)
            check_machine(self._library, self._target().arch)
            self._open()
            self._members[LIBRARY] = self._writer.add(LIBRARY, chunks_of(self._library))
            self._members[WEIGHTS] = self._writer.add(WEIGHTS, self._weight_chunks())
            self._file.flush()
            self.executor = self._executor()
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def publish(self) -> Package:
        """Completes the package and moves it to its place, in one step.

        Without an output it stays a temporary file, which is deleted with the returned package.

        Raises:
            TvmoptError: it cannot be written there.
        """
        manifest = self._manifest()
        with _write_errors(self.output):
            self._writer.finish(manifest.to_json())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if self.output is not None:
                self._path.chmod(0o666 & ~_umask())  # mkstemp makes it private
                self._path.replace(self.output)
                _sync_folder(self.output.parent)
        self._remove.pop_all()  # it is in its place now
        package = Package(self.output or self._path, manifest, self.executor)
        if self.output is None:
            weakref.finalize(package, self._path.unlink, missing_ok=True)
        return package

    def _open(self) -> None:
        folder = self.output.parent if self.output else None
        stem = self.output.name if self.output else "tvmopt"
        # Not NamedTemporaryFile: this file is closed before it is renamed and may outlive us.
        descriptor, name = tempfile.mkstemp(".tmp", f".{stem}.", folder)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "w+b")
        self._writer = ArchiveWriter(self._file)
        self._remove = self._cleanup.enter_context(contextlib.ExitStack())
        self._remove.callback(self._path.unlink, missing_ok=True)
        self._remove.callback(_close_quietly, self._file)
        self._remove.callback(self._writer.abandon)

    def _weight_chunks(self) -> Iterator[memoryview | bytes]:
        offset = 0
        for array in self.built.weights:
            padding = -offset % ALIGNMENT
            if padding:
                yield bytes(padding)
            offset += padding
            self._weights.append(Weight(array.dtype.name, array.shape, offset))
            yield memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            offset += array.nbytes

    def _executor(self) -> Executor:
        # What is verified are the bytes that are shipped.
        start, size = self._writer.starts[WEIGHTS], self._members[WEIGHTS].size_bytes
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        weights = memoryview(mapped)[start : start + size]
        imported = self.imported
        return Executor(self._library, weights, self._weights, imported.inputs, imported.outputs)

    def _target(self) -> PackageTarget:
        backend = self.request.backend
        tvm_target: dict[str, Any] = json.loads(str(backend.target()))
        triple = str(tvm_target.get("mtriple", ""))
        arch = triple.partition("-")[0] or platform.machine()
        isa = tuple(backend.isa())
        return PackageTarget(backend.device, backend.name, arch, isa, tvm_target)

    def _manifest(self) -> Manifest:
        request = self.request
        options = {
            "passes": {name: dict(given) for name, given in request.options.items()},
            "disabled_passes": sorted(request.disabled),
            "target": dict(request.backend.options),
            "input_shapes": {k: list(v) for k, v in request.source.input_shapes.items()},
            "dims": dict(request.source.dims),
        }
        return Manifest(
            FORMAT_VERSION,
            own_version(),
            version("apache-tvm"),
            request.source.path.name,
            self._target(),
            self.imported.inputs,
            self.imported.outputs,
            self.ranges,
            tuple(self._weights),
            self._members,
            options,
            self.verification,
            self.report,
        )


def check_output(path: Path) -> None:
    """Checks, before anything is compiled, that a package can be written to `path`.

    Raises:
        TvmoptError: no such directory, no right to write there, or a directory of this name.
    """
    folder = path.parent
    if path.is_dir():
        raise TvmoptError(f"cannot write '{path}': it is a directory", f"use -o {path}/FILE.tvmpkg")
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise TvmoptError(f"cannot write '{path}': '{folder}' {reason}", f"mkdir -p '{folder}'")
    # Asking for the right is not enough: read-only and full file systems answer yes.
    with _write_errors(path), tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
        pass


def _checked_manifest(reader: ArchiveReader) -> Manifest:
    manifest = Manifest.from_json(reader.manifest(), str(reader.path))
    expected = {MANIFEST, LIBRARY, WEIGHTS}
    for name in reader.names:
        if name not in expected:
            raise reader.damaged(f"it holds '{name}', which is no part of a package")
    if set(manifest.members) != expected - {MANIFEST}:
        raise reader.damaged("its manifest does not list its members")
    return manifest


def _check_weights(reader: ArchiveReader, manifest: Manifest, weights: memoryview) -> None:
    if np.frombuffer(weights, np.uint8).ctypes.data % ALIGNMENT:
        raise reader.damaged(f"its weights are not aligned to {ALIGNMENT} bytes")
    for weight in manifest.weights:
        size = int(np.prod(weight.shape, dtype=int)) * np.dtype(weight.dtype).itemsize
        end = weight.offset + size
        if weight.offset % ALIGNMENT or weight.offset < 0 or end > weights.nbytes:
            raise reader.damaged("its table of weights does not fit its weights")


@contextlib.contextmanager
def _write_errors(output: Path | None) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(output or Path(tempfile.gettempdir()), error) from None


def _write_error(path: Path, error: OSError) -> TvmoptError:
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room in '{path.parent}', or write elsewhere with -o"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "write elsewhere with -o"
    return TvmoptError(f"cannot write '{path}': {error.strerror or error}", hint)


def _close_quietly(file: Any) -> None:
    with contextlib.suppress(OSError):  # a full disk fails once more when buffers are flushed
        file.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
