"""The container of a `.tvmpkg`: a ZIP of stored members whose data can be mapped into memory.

Every member's data begins at a multiple of `ALIGNMENT` bytes in the file, as Android's zipalign
does it: the padding is an extra field of the local header. Weights are used where they lie, without
a copy. The archive's comment holds the SHA-256 of the manifest, and the manifest those of the other
members.
"""

import contextlib
import hashlib
import mmap
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from tvmopt.errors import PackageError

ALIGNMENT = 64
"""Bytes; what TVM's kernels assume of every tensor (`kAllocAlignment`)."""

MANIFEST = "manifest.json"
LIBRARY = "library.so"
WEIGHTS = "weights.bin"

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same input makes the same bytes
_LOCAL_HEADER = struct.Struct("<4sHHHHHLLLHH")
_END_RECORD = struct.Struct("<4sHHHHLLH")
_END_SIGNATURE = b"PK\5\6"
_ZIP64_EXTRA_BYTES = 20
_PADDING_ID = 0xD935  # zipalign's extra field
_COMMENT_PREFIX = b"tvmpkg manifest sha256 "
_CHUNK_BYTES = 4 << 20

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Member:
    """Size in bytes and SHA-256 (hexadecimal) of one member."""

    size_bytes: int
    sha256: str


class ArchiveWriter:
    """Writes members one after the other into an open, seekable file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self.starts: dict[str, int] = {}
        """Where in the file the data of each member begins."""

    def add(self, name: str, chunks: Iterable[Buffer]) -> Member:
        """Appends a member and returns what the manifest records of it."""
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = 0o644 << 16
        info.extra = _padding(self._file.tell() + _header_bytes(name))
        digest = hashlib.sha256()
        size = 0
        with self._zip.open(info, "w", force_zip64=True) as stream:
            self.starts[name] = self._file.tell()
            for chunk in chunks:
                digest.update(chunk)
                stream.write(chunk)
                size += memoryview(chunk).nbytes
        return Member(size, digest.hexdigest())

    def finish(self, manifest: bytes) -> None:
        """Appends the manifest and completes the archive."""
        member = self.add(MANIFEST, [manifest])
        self._zip.comment = _COMMENT_PREFIX + member.sha256.encode()
        self._zip.close()

    def abandon(self) -> None:
        """Forgets the archive; the file is for the caller to remove."""
        self._zip.fp = None  # keeps ZipFile's finalizer from writing a directory


class ArchiveReader:
    """A `.tvmpkg` mapped into memory, its structure checked, its members not yet.

    The mapping is private (copy on write), so nothing that computes on it can change the file.
    """

    def __init__(self, path: Path) -> None:
        """Maps the file.

        Raises:
            PackageError: there is no such file, or it is no intact archive of this kind.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise PackageError(f"there is no package '{path}'") from None
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            reason = "it is empty" if isinstance(error, ValueError) else error.strerror
            raise PackageError(f"package '{path}' cannot be read: {reason}") from None
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
                self._comment = archive.comment
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error):
            raise PackageError(
                f"'{path}' is not a package, or it is cut short",
                "copy or download it again, or make it with `tvmopt compile -o FILE.tvmpkg`",
            ) from None
        self._check_end()
        self._spans: dict[str, tuple[int, int]] = {}
        for info in infos:
            if info.filename in self._spans:
                raise self.damaged(f"it holds two members called '{info.filename}'")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise self.damaged(f"its member '{info.filename}' is compressed or encrypted")
            self._spans[info.filename] = self._span(info)

    @property
    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._spans)

    def view(self, name: str) -> memoryview:
        """A member's bytes, in place."""
        if name not in self._spans:
            raise self.damaged(f"its member '{name}' is missing")
        start, size = self._spans[name]
        return memoryview(self._map)[start : start + size]

    def manifest(self) -> bytes:
        """The manifest, its hash checked against the archive's comment."""
        data = self.view(MANIFEST)
        expected = _COMMENT_PREFIX + hashlib.sha256(data).hexdigest().encode()
        if self._comment != expected:
            raise self.damaged("its manifest was changed after it was made")
        return bytes(data)

    def check(self, name: str, expected: Member) -> None:
        """Checks a member's size and hash.

        Raises:
            PackageError: the member is not what the manifest says.
        """
        data = self.view(name)
        if data.nbytes != expected.size_bytes:
            found = f"{data.nbytes} bytes where the manifest says {expected.size_bytes}"
            raise self.damaged(f"its member '{name}' has {found}")
        digest = hashlib.sha256()
        for start in range(0, data.nbytes, _CHUNK_BYTES):
            digest.update(data[start : start + _CHUNK_BYTES])
        if digest.hexdigest() != expected.sha256:
            raise self.damaged(f"its member '{name}' does not have the SHA-256 of the manifest")

    def damaged(self, reason: str) -> PackageError:
        """The error for a file that is not as `ArchiveWriter` leaves it."""
        return PackageError(
            f"package '{self.path}' is damaged: {reason}", "copy or download it again"
        )

    def close(self) -> None:
        """Lets go of the mapping; it stays as long as something still looks into it."""
        with contextlib.suppress(BufferError):  # a weight still points into it
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _check_end(self) -> None:
        # ZipFile takes a comment that is cut short, and whatever follows the archive.
        start = self._map.rfind(_END_SIGNATURE)
        *_, comment_bytes = _END_RECORD.unpack_from(self._map, start)
        excess = len(self._map) - (start + _END_RECORD.size + comment_bytes)
        if excess < 0:
            raise self.damaged(f"it is cut short by {-excess} bytes")
        if excess > 0:
            raise self.damaged(f"{excess} bytes follow its end")

    def _span(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        header = self._map[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise self.damaged(f"the header of '{info.filename}' is not where it should be")
        *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if start + info.file_size > len(self._map) or info.file_size != info.compress_size:
            raise self.damaged(f"its member '{info.filename}' is cut short")
        return start, info.file_size


def chunks_of(path: Path) -> Iterable[bytes]:
    """A file's bytes, a few megabytes at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def sha256_of(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header_bytes(name: str) -> int:
    return _LOCAL_HEADER.size + len(name.encode()) + _ZIP64_EXTRA_BYTES


def _padding(unpadded_start: int) -> bytes:
    size = -unpadded_start % ALIGNMENT
    if size == 0:
        return b""
    if size < 4:  # an extra field has a head of 4 bytes
        size += ALIGNMENT
    return struct.pack("<HH", _PADDING_ID, size - 4) + bytes(size - 4)
