"""What the user reads when something fails: one `error:` line, a hint, and an exit code."""

import errno
import os
from dataclasses import dataclass
from traceback import format_exception
from typing import Any

import click

from tvmopt.errors import GateError, MissingPackageError, TvmoptError

TOOL_ERROR = 4
INTERRUPTED = 130

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    errno.EACCES: "check the permissions, or name another place",
    errno.EPERM: "check the permissions, or name another place",
    errno.EROFS: "this file system is read-only; name another place",
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a directory",
    errno.ENOTDIR: "a part of this path is a file, not a directory",
    **dict.fromkeys(_FULL, "nothing was written; make room, or name another place"),
}


@dataclass(frozen=True)
class Failure:
    """What ended a run, in words."""

    error: BaseException
    code: int
    message: str
    hint: str | None = None
    label: str = "error: "

    def text(self, *, traceback: bool) -> str:
        """The lines for stderr.

        Args:
            traceback: show Python's traceback even of what a user can mend.
        """
        lines = [f"{self.label}{self.message}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        if traceback or _is_unexpected(self.error):
            lines = ["".join(format_exception(self.error)).rstrip(), *lines]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints in place of a result; a failed gate adds its figures."""
        data = {"error": self.message, "hint": self.hint, "exit_code": self.code}
        return {**self.error.details, **data} if isinstance(self.error, GateError) else data


def explain(error: BaseException) -> Failure:
    """Finds the words and the exit code for what ended a run."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a plugin's group of commands
        return Failure(error, error.exit_code, error.format_message(), label="")
    code, message, hint = _describe(error)
    return Failure(error, code, message, hint, label="" if code == INTERRUPTED else "error: ")


def _describe(error: BaseException) -> tuple[int, str, str | None]:
    match error:
        case TvmoptError():
            return error.exit_code, _one_line(str(error)), error.hint
        case KeyboardInterrupt() | click.Abort():
            said = error.__cause__ if isinstance(error, click.Abort) else error
            return INTERRUPTED, _one_line(str(said or "")) or "interrupted", None
        case click.NoSuchOption():
            near = error.possibilities or ()
            command = f" of `{error.ctx.command_path}`" if error.ctx else ""
            hint = f"did you mean '{near[0]}'?" if near else _help_hint(error)
            return error.exit_code, f"no option{command} is called '{error.option_name}'", hint
        case click.UsageError():
            return error.exit_code, _sentence(error.format_message()), _help_hint(error)
        case click.ClickException():
            return error.exit_code, _sentence(error.format_message()), None
        case ModuleNotFoundError() if error.name and not error.name.startswith("tvmopt"):
            package = error.name.partition(".")[0]
            message = f"the Python package '{package}' is not installed"
            return MissingPackageError.exit_code, message, "`tvmopt doctor` says what to install"
        case OSError() if error.errno is not None:
            reason = _sentence(os.strerror(error.errno))
            message = f"'{error.filename}': {reason}" if error.filename else reason
            return TOOL_ERROR, message, _REMEDIES.get(error.errno)
        case MemoryError():
            return TOOL_ERROR, "out of memory", "close other programs, or use a bigger machine"
        case _:
            where = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
            message = f"internal error{where}: {type(error).__name__}: {_one_line(str(error))}"
            return TOOL_ERROR, message, f"this is a bug in tvmopt or a plugin; {_where_to_report()}"


def _is_unexpected(error: BaseException) -> bool:
    expected = (TvmoptError, KeyboardInterrupt, click.Abort, click.ClickException, MemoryError)
    if isinstance(error, OSError):
        return error.errno is None
    return not isinstance(error, (*expected, ModuleNotFoundError))


def _help_hint(error: click.UsageError) -> str | None:
    return f"`{error.ctx.command_path} --help` shows the usage" if error.ctx else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    """`Missing argument 'MODEL'.` in the form of our own messages."""
    line = _one_line(text).rstrip(".")
    return line[:1].lower() + line[1:]


def _where_to_report() -> str:
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("tvmopt").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    where = next((u.partition(",")[2].strip() for u in urls if u.lower().startswith("issues")), "")
    place = f" at {where}" if where else " to its authors"
    return f"please report it{place} with the traceback above and what `tvmopt doctor` prints"
