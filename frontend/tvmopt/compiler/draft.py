"""A package while it is made: linked, written, verified, and only then put in its place."""

import contextlib
import json
import mmap
import os
import platform
import tempfile
import time
import weakref
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tvmopt.backend import Backend
from tvmopt.compiler.archive import (
    ALIGNMENT,
    LIBRARY,
    WEIGHTS,
    ArchiveWriter,
    Member,
    chunks_of,
    sha256_of,
)
from tvmopt.compiler.executor import Executor
from tvmopt.compiler.host import runs_here
from tvmopt.compiler.linking import check_machine, export_library
from tvmopt.compiler.manifest import (
    FORMAT_VERSION,
    Manifest,
    PackageTarget,
    Verification,
    Weight,
    own_version,
)
from tvmopt.compiler.output import write_errors
from tvmopt.compiler.package import Package
from tvmopt.compiler.scratch import scratch_folder
from tvmopt.model import CompileRequest
from tvmopt.report import Report

if TYPE_CHECKING:
    from tvmopt.compiler.build import BuiltModel
    from tvmopt.compiler.importer import ImportedModel


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
        self.target = target_of(request.backend)
        self.verification: Verification | None = None
        self.executor: Executor | None = None
        """Runs the draft; None where this machine cannot."""
        self._model_sha256 = sha256_of(request.source.path)
        self._members: dict[str, Member] = {}
        self._weights: list[Weight] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        scratch = scratch_folder(self.output)
        with self._cleanup:
            start = time.perf_counter()
            with write_errors(None):
                temporary = tempfile.TemporaryDirectory(prefix="tvmopt-", dir=scratch)
                self._library = Path(self._cleanup.enter_context(temporary)) / LIBRARY
                export_library(self.built.executable, self._library)
            # TVM makes machine code only now.
            self.report.seconds["link"] = time.perf_counter() - start
            check_machine(self._library, self.target.arch)
            with write_errors(self.output):
                self._open()
                self._members[LIBRARY] = self._writer.add(LIBRARY, chunks_of(self._library))
                self._members[WEIGHTS] = self._writer.add(WEIGHTS, self._weight_chunks())
                self._file.flush()
            if runs_here(self.target):
                self.executor = self._load()
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def discard(self) -> None:
        """Removes what has been written and gives memory back."""
        self.executor = None
        self._cleanup.close()

    def publish(self) -> Package:
        """Completes the package and moves it to its place, in one step.

        Without an output it stays a temporary file, which is deleted with the returned package.

        Raises:
            TvmoptError: it cannot be written there.
        """
        manifest = self._manifest()
        with write_errors(self.output):
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

    def _load(self) -> Executor:
        # What is verified are the bytes that are shipped.
        start, size = self._writer.starts[WEIGHTS], self._members[WEIGHTS].size_bytes
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        weights = memoryview(mapped)[start : start + size]
        imported = self.imported
        return Executor(self._library, weights, self._weights, imported.inputs, imported.outputs)

    def _manifest(self) -> Manifest:
        request = self.request
        options = {
            "passes": {name: dict(given) for name, given in request.options.items()},
            "disabled_passes": sorted(request.disabled),
            "target": dict(request.backend.options),
            "input_shapes": {k: list(v) for k, v in request.source.input_shapes.items()},
            "dims": dict(request.source.dims),
            "measure": request.measure,
            "if_slower": request.if_slower,
        }
        if request.gate is not None:
            gate = request.gate
            options["gate"] = {
                "max_drop": str(gate.max_drop),
                "metric": gate.metric,
                "data": str(gate.data),
            }
        return Manifest(
            FORMAT_VERSION,
            own_version(),
            version("apache-tvm"),
            request.source.path.name,
            self.target,
            self.imported.inputs,
            self.imported.outputs,
            self.imported.input_ranges,
            tuple(self._weights),
            self._members,
            options,
            self.verification,
            self.report,
            self._model_sha256,
        )


def target_of(backend: Backend) -> PackageTarget:
    """What a package says of the hardware that it is for."""
    tvm_target: dict[str, Any] = json.loads(str(backend.target()))
    triple = str(tvm_target.get("mtriple", ""))
    arch = triple.partition("-")[0] or platform.machine()
    return PackageTarget(backend.device, backend.name, arch, tuple(backend.isa()), tvm_target)


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
