"""Where a package's intermediate files go: a directory with room for them."""

import contextlib
import shutil
import tempfile
from pathlib import Path

from tvmopt.errors import TvmoptError

ROOM_BYTES = 64 << 20
"""What must be free. Object files and the library take a few megabytes; LLVM ends the process, and
leaves them behind, where they do not fit: it has to be known before."""


def scratch_folder(output: Path | None) -> Path:
    """The temporary directory, or where it has no room that of `output`.

    Raises:
        TvmoptError: neither has room.
    """
    folders: list[Path] = []
    with contextlib.suppress(FileNotFoundError):  # none can be written to
        folders.append(Path(tempfile.gettempdir()))
    if output is not None:
        folders.append(output.parent)
    for folder in folders:
        if _free_bytes(folder) >= ROOM_BYTES:
            return folder
    if not folders:
        raise TvmoptError("there is no temporary directory that can be written to", "set TMPDIR")
    names = " nor in ".join(f"'{folder}'" for folder in dict.fromkeys(folders))
    raise TvmoptError(
        f"no {ROOM_BYTES >> 20} MiB are free in {names} for intermediate files",
        "make room, or set TMPDIR to a directory that has it",
    )


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
