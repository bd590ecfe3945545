"""Every door of tvmopt, on one page.

A plugin is a module (or an object) that an entry point of the group `tvmopt` names, with functions
marked `@tvmopt.hookimpl`. A hook may be implemented by any number of plugins; their results are put
together. What a plugin registers must be importable without tvm.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from tvmopt.backend import Backend
    from tvmopt.calibration import Calibrator, Dataset
    from tvmopt.metrics import Metric
    from tvmopt.model import CompileRequest
    from tvmopt.passes import Pass
    from tvmopt.report import Report

hookspec = pluggy.HookspecMarker("tvmopt")
hookimpl = pluggy.HookimplMarker("tvmopt")


@hookspec
def tvmopt_register_backends() -> Iterable[type["Backend"]]:  # pyright: ignore[reportReturnType]
    """Returns hardware backends; each can then be named by `--target`."""


@hookspec
def tvmopt_register_passes() -> Iterable[type["Pass"]]:  # pyright: ignore[reportReturnType]
    """Returns passes; each can then be named by `--pass` and in a recipe."""


@hookspec
def tvmopt_register_calibrators() -> Iterable[type["Calibrator"]]:  # pyright: ignore[reportReturnType]
    """Returns calibrators; each can then be named by `--calibrator`."""


@hookspec
def tvmopt_register_datasets() -> Iterable[type["Dataset"]]:  # pyright: ignore[reportReturnType]
    """Returns data sets; each can then be named by `--calibration` and `--dataset`."""


@hookspec
def tvmopt_register_metrics() -> Iterable[type["Metric"]]:  # pyright: ignore[reportReturnType]
    """Returns metrics; each can then be named by `--metric`."""


@hookspec
def tvmopt_modify_passes(passes: list["Pass"], request: "CompileRequest") -> None:
    """Adds, drops or reorders `passes` of one compilation, in place; the report names who did."""


@hookspec
def tvmopt_register_commands(cli: "click.Group") -> None:
    """Adds subcommands to `cli` with `cli.add_command` or `@cli.command()`."""


@hookspec
def tvmopt_compile_finished(request: "CompileRequest", report: "Report") -> None:
    """Is told of each finished compilation, to log or upload its report."""
