"""What a package says of itself: versions, target, tensors, hashes, and how it came to be."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from tvmopt.compiler.archive import LIBRARY, MANIFEST, WEIGHTS, ArchiveReader, Member, sha256_of
from tvmopt.compiler.typed_json import typed
from tvmopt.errors import ModelError, PackageError
from tvmopt.model import TensorSpec
from tvmopt.report import Report

FORMAT_VERSION = 1
"""Grows when an older tvmopt could not read a package correctly."""

_AGAIN = "compile the model again with `tvmopt compile`"


@dataclass(frozen=True)
class Weight:
    """Where one weight lies: `offset` in bytes from the start of the weights."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class PackageTarget:
    """The hardware that a package is for.

    Attributes:
        name: what `--target` was given, such as `x86-avx2`.
        backend: name of the backend.
        arch: machine name as `uname -m` says it.
        isa: CPU features that must be present, in LLVM's names.
        tvm: the TVM target as its JSON object.
    """

    name: str
    backend: str
    arch: str
    isa: tuple[str, ...]
    tvm: Mapping[str, Any]


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the original model's.

    Attributes:
        output: the output's name.
        max_abs: largest absolute difference.
        max_rel: largest absolute difference over the original's largest magnitude.
        limit: what `max_rel` must not exceed; 0 where values must be equal.
        finite_share: part of the original's elements that are finite, from 0 to 1.
        ties: integers that differ because the floats that chose them are equal within the limit.
        sqnr_db: signal to noise in dB, where the precision was lowered.
        top_1: part of the rows whose largest element is the original's, where the precision was
            lowered and the output looks like scores of classes.
    """

    output: str
    max_abs: float
    max_rel: float
    limit: float
    finite_share: float = 1.0
    ties: int = 0
    sqnr_db: float | None = None
    top_1: float | None = None


@dataclass(frozen=True)
class Verification:
    """The comparison with the original model: what ran it, on which inputs, and the errors.

    `precision` is what products were computed in, as a pass had it: float32, or less.
    """

    reference: str
    seed: int | None
    outputs: tuple[OutputError, ...]
    precision: str = "float32"


@dataclass(frozen=True)
class Manifest:
    """The manifest of a package.

    Attributes:
        model: file name of the ONNX model.
        input_ranges: smallest and largest sensible value of the integer inputs, by name.
        options: what was asked for: pass options, disabled passes, shapes and dimensions.
        members: size and hash of every other member.
        verification: None where the package was made without.
        model_sha256: of the ONNX file without external data; empty in packages of older versions.
    """

    format_version: int
    tvmopt_version: str
    tvm_version: str
    model: str
    target: PackageTarget
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_ranges: Mapping[str, tuple[int, int]]
    weights: tuple[Weight, ...]
    members: Mapping[str, Member]
    options: Mapping[str, Any]
    verification: Verification | None
    report: Report
    model_sha256: str = ""

    def to_json(self) -> bytes:
        """The manifest as the bytes that go into the package."""
        return json.dumps(asdict(self), indent=1, allow_nan=True).encode()

    @classmethod
    def from_json(cls, data: bytes, origin: str) -> Self:
        """Reads a manifest back; `origin` names the package in errors.

        Raises:
            PackageError: a newer format, or no manifest at all.
        """
        damaged = f"package '{origin}' is damaged"
        try:
            raw = json.loads(data)
            format_version = int(raw["format_version"])
            maker = str(raw["tvmopt_version"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise PackageError(f"{damaged}: its manifest is none", _AGAIN) from None
        if format_version > FORMAT_VERSION:
            newer = f"the tvmopt that made it: pip install 'tvmopt>={maker}'"
            raise PackageError(
                f"package '{origin}' has format {format_version}, and tvmopt {own_version()} "
                f"reads up to format {FORMAT_VERSION}",
                f"install {'a newer tvmopt' if maker == own_version() else newer}",
            )
        try:
            return typed(cls, raw, "")
        except ValueError as error:
            raise PackageError(f"{damaged}: in its manifest, {error}", _AGAIN) from None

    def check_model(self, path: Path) -> None:
        """Checks that an ONNX file is the one that the package was compiled from.

        Raises:
            ModelError: it is another one, or it cannot be read.
        """
        try:
            is_other = self.model_sha256 and self.model_sha256 != sha256_of(path)
        except OSError as error:
            raise ModelError(f"'{path}' cannot be read: {error.strerror}") from None
        if is_other:
            raise ModelError(
                f"'{path}' is not the model that the package was compiled from",
                f"give the '{self.model}' with SHA-256 {self.model_sha256[:16]}..., or compile "
                "this model",
            )

    def check_versions(self, origin: str) -> None:
        """Checks that the installed TVM can run the package.

        The bytecode of TVM's virtual machine and the calling convention of kernels are stable
        within one `0.N` of TVM, not across.

        Raises:
            PackageError: made with another TVM.
        """
        installed = version("apache-tvm")
        if _minor(installed) != _minor(self.tvm_version):
            raise PackageError(
                f"package '{origin}' was made with TVM {self.tvm_version}, and TVM {installed} is "
                "installed",
                f"compile the model again, or pip install 'apache-tvm=={self.tvm_version}'",
            )


def read_manifest(reader: ArchiveReader) -> Manifest:
    """What a package says of itself, and that its members are those of a package.

    Raises:
        PackageError: it is none, or its format is newer than this tvmopt.
    """
    manifest = Manifest.from_json(reader.manifest(), str(reader.path))
    expected = {MANIFEST, LIBRARY, WEIGHTS}
    for name in reader.names:
        if name not in expected:
            raise reader.damaged(f"it holds '{name}', which is no part of a package")
    if set(manifest.members) != expected - {MANIFEST}:
        raise reader.damaged("its manifest does not list its members")
    return manifest


def own_version() -> str:
    """The version of this tvmopt."""
    from tvmopt import __version__

    return __version__


def _minor(text: str) -> list[str]:
    return text.split(".")[:2]
