"""What ends a run, and what the user reads then."""

import errno
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import click
import pytest

from tvmopt import GateError, InputError, MissingPackageError, TvmoptError, UsageError, hookimpl
from tvmopt.cli import main
from tvmopt.plugins import Plugins


def plugins_with(body: Callable[[], Any]) -> Plugins:
    """Plugins with a command `act` that does `body`."""
    plugin = types.ModuleType("acting")

    @hookimpl
    def register(cli: click.Group) -> None:
        cli.add_command(click.Command("act", callback=body))

    plugin.tvmopt_register_commands = register
    return Plugins.of(acting=plugin)


def run_raising(error: BaseException, *before: str) -> int:
    def act() -> None:
        raise error

    return main([*before, "act"], plugins_with(act))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TvmoptError("it is so", "do that"), 4),
        (UsageError("it is so", "do that"), 2),
        (InputError("it is so", "do that"), 4),
        (GateError("it is so", "do that"), 3),
        (MissingPackageError("it is so", "do that"), 5),
    ],
)
def test_a_users_error_is_one_line_with_a_hint_and_its_code(
    error: TvmoptError, code: int, capsys: pytest.CaptureFixture[str]
):
    assert run_raising(error) == code
    captured = capsys.readouterr()
    assert captured.err == "error: it is so\nhint: do that\n"
    assert captured.out == ""


def test_an_error_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]):
    run_raising(TvmoptError("one\n  two"))
    assert capsys.readouterr().err == "error: one two\n"


@pytest.mark.parametrize("how", ["-v", "variable"])
def test_the_traceback_of_a_users_error_is_there_when_wanted(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    if how == "variable":
        monkeypatch.setenv("TVMOPT_TRACEBACK", "1")
    run_raising(TvmoptError("it is so"), *(["-v"] if how == "-v" else []))
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("error: it is so\n")


def test_an_unexpected_error_shows_its_traceback_and_where_to_report(
    capsys: pytest.CaptureFixture[str],
):
    assert run_raising(ValueError("what now")) == 4
    text = capsys.readouterr().err
    assert "Traceback" in text
    where = "in the command 'act' of the plugin 'acting'"
    assert f"error: internal error {where}: ValueError: what now\n" in text
    assert "please report it" in text.splitlines()[-1]


def test_an_unexpected_error_in_a_pass_names_the_pass(capsys: pytest.CaptureFixture[str]):
    error = KeyError("conv1")
    error.add_note("in the pass 'layout' of the plugin 'mine'")
    assert run_raising(error) == 4
    line = "error: internal error in the pass 'layout' of the plugin 'mine': KeyError: 'conv1'"
    assert line in capsys.readouterr().err.splitlines()


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]):
    assert run_raising(KeyboardInterrupt("interrupted: 'x.tvmpkg' was not written")) == 130
    assert capsys.readouterr().err.strip() == "interrupted: 'x.tvmpkg' was not written"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_file_that_cannot_be_written_is_named_without_a_traceback(
    number: int, capsys: pytest.CaptureFixture[str]
):
    error = OSError(number, os.strerror(number), "/x/y.tvmpkg")
    assert run_raising(error) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: '/x/y.tvmpkg': ")
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


def test_a_missing_package_is_5_and_points_at_doctor(capsys: pytest.CaptureFixture[str]):
    error = ModuleNotFoundError("No module named 'openvino.x'", name="openvino.x")
    assert run_raising(error) == 5
    text = capsys.readouterr().err
    assert text.startswith("error: the Python package 'openvino' is not installed\n")
    assert "tvmopt doctor" in text


def test_a_missing_module_of_tvmopt_itself_is_a_bug(capsys: pytest.CaptureFixture[str]):
    assert run_raising(ModuleNotFoundError("No module", name="tvmopt.gone")) == 4
    assert "internal error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["compil"], "no command is called 'compil'", "did you mean 'compile'?"),
        (["compile", "--outptu", "x"], "is called '--outptu'", "did you mean '--output'?"),
        (["compile", "--zzz"], "no option of `tvmopt compile` is called '--zzz'", "--help"),
        (["compile"], "no model is given", "tvmopt compile model.onnx"),
        (["run"], "missing argument 'PACKAGE'", "`tvmopt run --help`"),
        (["compile", "m.onnx", "--threads", "0"], "'--threads': 0 is not in the range", "--help"),
        (["targets", "x"], "unexpected extra argument (x)", "`tvmopt targets --help`"),
        (["--colour"], "is called '--colour'", ""),
    ],
)
def test_wrong_usage_is_2_with_an_error_and_a_hint(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: tvmopt ")
    assert "\n  compile " in captured.out
    assert captured.err == ""


def test_a_plugins_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]):
    plugin = types.ModuleType("grouping")

    @hookimpl
    def register(cli: click.Group) -> None:
        cli.add_command(click.Group("tools", commands=[click.Command("hammer")]))

    plugin.tvmopt_register_commands = register
    assert main(["tools"], Plugins.of(grouping=plugin)) == 2
    text = capsys.readouterr().err
    assert text.startswith("Usage: tvmopt tools ")
    assert "\n  hammer" in text
    assert main(["tools", "hamer"], Plugins.of(grouping=plugin)) == 2
    assert "hammer" in capsys.readouterr().err


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]):
    def act() -> None:
        warnings.warn("mind this", RuntimeWarning, stacklevel=1)

    assert main(["act"], plugins_with(act)) == 0
    assert capsys.readouterr().err == "warning: mind this\n"


def test_a_command_may_return_its_exit_code():
    assert main(["act"], plugins_with(lambda: 5)) == 5
    assert main(["act"], plugins_with(lambda: None)) == 0


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "tvmopt"
    assert version[0].isdigit()


def run_module(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tvmopt", *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False, **options)


def test_python_m_tvmopt_is_tvmopt():
    done = run_module("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: tvmopt ")


def test_a_reader_that_goes_away_causes_no_complaint():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tvmopt", "plugins"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


LIGHT = """
import sys
from tvmopt.cli import main
code = main({arguments!r})
heavy = ["tvm", "numpy", "onnx", "rich", "yaml", "torch", "tvmopt_schedules"]
print([name for name in heavy if name in sys.modules], code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["targets"], ["plugins"], ["plugins", "--json"], ["compile", "-h"]],
)
def test_what_needs_no_compiler_imports_none(arguments: list[str]):
    code = LIGHT.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert done.stderr.splitlines()[-1] == "[] 0"
