import sys
from pathlib import Path

import pytest


@pytest.fixture
def check(load_tool, monkeypatch):
    """The module, with three checks of which the second fails."""
    module = load_tool("check")
    monkeypatch.setattr(module, "SCRIPTS", Path(sys.executable).parent)
    program = Path(sys.executable).name
    exits = {"one": 0, "two": 7, "three": 0}
    checks = {name: [program, "-c", f"raise SystemExit({code})"] for name, code in exits.items()}
    monkeypatch.setattr(module, "CHECKS", checks)
    return module


def summary(capsys):
    lines = capsys.readouterr().out.rsplit("\n\n", 1)[1].splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def run(check, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    return check.main()


def test_stops_at_the_first_failure(check, monkeypatch, capsys):
    assert run(check, monkeypatch) == 1
    lines = summary(capsys)
    assert lines["one"].startswith("passed")
    assert lines["two"].startswith("FAILED (7)")
    assert lines["three"] == "not run"


def test_keep_going_runs_the_rest(check, monkeypatch, capsys):
    assert run(check, monkeypatch, "--keep-going") == 1
    assert summary(capsys)["three"].startswith("passed")


def test_skipped_check_is_not_run(check, monkeypatch, capsys):
    assert run(check, monkeypatch, "--skip", "two") == 0
    assert list(summary(capsys)) == ["one", "three"]


def test_only_runs_what_is_named(check, monkeypatch, capsys):
    assert run(check, monkeypatch, "--only", "three") == 0
    assert list(summary(capsys)) == ["three"]


def test_program_that_is_not_installed_fails_with_a_remedy(check, monkeypatch, capsys):
    monkeypatch.setattr(check, "CHECKS", {"one": ["no-such-program"]})
    assert run(check, monkeypatch) == 1
    assert "no-such-program is not installed; `pip install --group dev`" in capsys.readouterr().out
