"""Where a package is written to: checked before, and told about when it does not work."""

import contextlib
import errno
import tempfile
from collections.abc import Generator
from pathlib import Path

from tvmopt.errors import TvmoptError


def check_output(path: Path) -> None:
    """Checks, before anything is compiled, that a package can be written to `path`.

    Raises:
        TvmoptError: no such directory, no right to write there, or a directory of this name.
    """
    folder = path.parent
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


@contextlib.contextmanager
def write_errors(output: Path | None) -> Generator[None]:
    """Makes errors for the user of those of writing `output`; None is a temporary file."""
    try:
        yield
    except OSError as error:
        raise write_error(output or Path(tempfile.gettempdir()), error) from None


def write_error(path: Path, error: OSError) -> TvmoptError:
    """The error for a file that cannot be written."""
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room in '{path.parent}', or write elsewhere with -o"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "write elsewhere with -o"
    return TvmoptError(f"cannot write '{path}': {error.strerror or error}", hint)
