"""The module after each pass, as text in files, for who wants to see what a pass did."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tvmopt.errors import TvmoptError

if TYPE_CHECKING:
    import tvm


def dump_module(folder: Path, index: int, name: str, mod: "tvm.IRModule") -> None:
    """Writes `mod` to a file of `folder` whose name tells the step; whole or not at all.

    Raises:
        TvmoptError: it cannot be written.
    """
    path = folder / f"{index:02d}_{name}.py"
    text = mod.script(show_meta=False)
    draft = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _error(folder, path, error) from None


def _error(folder: Path, path: Path, error: OSError) -> TvmoptError:
    where, hint = path, "name another directory with --dump-dir, or leave it out"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room in '{folder}', or {hint}"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        where = folder
        hint = "--dump-dir is for a directory; name another one, or leave it out"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return TvmoptError(f"cannot write the dump '{where}' (--dump-dir): {reason}", hint)
