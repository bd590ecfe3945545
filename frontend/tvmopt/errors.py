"""Errors that a user can mend. Everything else raises as it is, with its traceback."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class TvmoptError(Exception):
    """A problem in what the user gave or has, told in one sentence.

    Args:
        message: one lower-case sentence that names the offending value and what it belongs to.
        hint: the remedy, if there is one.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(TvmoptError):
    """A name, an option or an argument that does not exist or does not fit."""

    exit_code = 2


class ModelError(TvmoptError):
    """A model file that cannot be read, or that cannot be compiled correctly."""


class PackageError(TvmoptError):
    """A `.tvmpkg` that is damaged, too new, or built for another machine."""


class InputError(TvmoptError):
    """An input tensor whose name, shape or dtype is not the model's."""


class GateError(TvmoptError):
    """A result outside its limits, such as a compiled model that departs from the original.

    Args:
        message: as of every error.
        hint: as of every error.
        details: the figures behind it, for programs; plain data, as `--json` prints it.
    """

    exit_code = 3

    def __init__(
        self, message: str, hint: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, hint)
        self.details = dict(details or {})


class MissingPackageError(TvmoptError):
    """An optional Python package that this call needs is not installed."""

    exit_code = 5


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a misspelt name: lists what there is and suggests the nearest.

    Args:
        kind: what the name was meant to be, such as `backend` or `pass`.
        name: what the user wrote.
        known: the names that exist.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else None
    return UsageError(f"no {kind} is called '{name}'; there is {', '.join(names) or 'none'}", hint)
