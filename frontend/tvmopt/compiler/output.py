"""Where files are written to: checked before, and told about when it does not work."""

import contextlib
import errno
import tempfile
from collections.abc import Generator
from pathlib import Path

from tvmopt.compiler.scratch import scratch_folder
from tvmopt.errors import TvmoptError, UsageError


def check_output(path: Path) -> None:
    """Checks, before anything is compiled, that a package can be written to `path`.

    Raises:
        UsageError: it is `-`.
        TvmoptError: no such directory, no right to write there, a directory of this name, or no
            room for intermediate files.
    """
    folder = path.parent
    if str(path) == "-":
        raise UsageError("a package cannot be written to standard output", "use -o FILE.tvmpkg")
    if path.is_dir():
        raise TvmoptError(f"cannot write '{path}': it is a directory", f"use -o {path}/FILE.tvmpkg")
    if path.exists() and not path.is_file():  # replacing /dev/null is the last thing one wants
        raise TvmoptError(f"cannot write '{path}': it is a device, not a file")
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise TvmoptError(f"cannot write '{path}': '{folder}' {reason}", f"mkdir -p '{folder}'")
    # Asking for the right is not enough: read-only and full file systems answer yes.
    with write_errors(path), tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
        pass
    scratch_folder(path)


def write_text(path: Path, text: str) -> None:
    """Writes a file, complete or not at all.

    Raises:
        TvmoptError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    with write_errors(path):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(output: Path | None) -> Generator[None]:
    """Makes errors for the user of those of writing `output`; None is a temporary file."""
    try:
        yield
    except OSError as error:
        raise write_error(output, error) from None


def write_error(output: Path | None, error: OSError) -> TvmoptError:
    """The error for a package, or where `output` is None a temporary file, that is not written."""
    path = output or Path(error.filename or tempfile.gettempdir())
    place = output.parent if output else tempfile.gettempdir()
    elsewhere = "write elsewhere with -o" if output else "set TMPDIR to another directory"
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room in '{place}', or {elsewhere}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = elsewhere
    return TvmoptError(f"cannot write '{path}': {error.strerror or error}", hint)
