"""What plugins do wrong while they run is told as theirs."""

import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from tvmopt import Pass, Stage, TvmoptError, hookimpl
from tvmopt.cli import main
from tvmopt.plugins import Plugins


def plugins_with_pass(body: Callable[[Any], Any]) -> Plugins:
    """The installed plugins and one, `mine`, whose pass `odd` does `body`."""

    @dataclasses.dataclass(frozen=True)
    class Odd(Pass):
        name: ClassVar[str] = "odd"
        stage: ClassVar[Stage] = Stage.CANONICALIZE

        def run(self, mod: Any, ctx: Any) -> Any:
            return body(mod)

    plugin = types.ModuleType("odd_plugin")
    plugin.tvmopt_register_passes = hookimpl(lambda: [Odd])
    plugins = Plugins.load()
    plugins.add("mine", plugin)
    return plugins


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (lambda _mod: None, "TypeError: it returned NoneType, not an IRModule"),
        (lambda mod: mod["main"], "TypeError: it returned Function, not an IRModule"),
        (lambda _mod: sys.exit(0), "RuntimeError: it called sys.exit(0)"),
    ],
)
def test_a_pass_that_misbehaves_is_named_with_its_plugin(
    body: Callable[[Any], Any],
    what: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--dim", "N=1", "--pass", "odd", "-o", str(output)]
    assert main(arguments, plugins_with_pass(body)) == 4
    line = f"error: internal error in the pass 'odd' of the plugin 'mine': {what}"
    assert line in capsys.readouterr().err.splitlines()
    assert not output.exists()


def run_command(error: BaseException, *arguments: str) -> int:
    """Runs a command `act` of the plugin `acting` that raises `error`."""

    def act(**_options: Any) -> None:
        raise error

    plugin = types.ModuleType("acting")

    @hookimpl
    def register(cli: click.Group) -> None:
        flag = click.Option(["--json"], is_flag=True)
        cli.add_command(click.Command("act", callback=act, params=[flag]))

    plugin.tvmopt_register_commands = register
    return main(["act", *arguments], Plugins.of(acting=plugin))


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (SystemExit(0), "RuntimeError: it called sys.exit(0)"),
        (SystemExit("bye"), "RuntimeError: it called sys.exit('bye')"),
        (ValueError("what now"), "ValueError: what now"),
    ],
)
def test_a_command_that_fails_is_named_with_its_plugin(
    error: BaseException, what: str, capsys: pytest.CaptureFixture[str]
):
    assert run_command(error) == 4
    line = f"error: internal error in the command 'act' of the plugin 'acting': {what}"
    assert line in capsys.readouterr().err.splitlines()


def test_what_a_plugins_command_prints_as_json_is_its_own(capsys: pytest.CaptureFixture[str]):
    assert run_command(TvmoptError("it is so"), "--json") == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: it is so\n"
