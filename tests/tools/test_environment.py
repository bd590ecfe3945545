import json
import subprocess
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def environment(load_tool, monkeypatch, tmp_path):
    """The module, in a folder of its own, with programs recorded instead of run."""
    module = load_tool("environment")
    folder = tmp_path / ".venv"
    (tmp_path / "pyproject.toml").write_text(
        '[dependency-groups]\ntest = ["pytest"]\ndev = [{ include-group = "test" }, "ruff"]\n'
    )
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "STAMP", folder / "tvmopt-setup.json")
    module.calls = []
    module.codes = {}

    def run(command, **_options):
        words = [str(word) for word in command]
        kind = next(w for w in ("venv", "install", "-c") if w in words)
        module.calls.append((kind, words))
        if kind == "venv":
            folder.mkdir(exist_ok=True)
        return SimpleNamespace(returncode=module.codes.get(kind, 0))

    monkeypatch.setattr(subprocess, "run", run)
    return module


def kinds(environment):
    found = [kind for kind, _ in environment.calls if kind != "-c"]
    environment.calls.clear()
    return found


def test_first_call_creates_and_installs(environment, tmp_path):
    python = environment.ensure(["peers"], ["dev"])
    assert python == tmp_path / ".venv/bin/python"
    _, words = next(call for call in environment.calls if call[0] == "install")
    assert f"{tmp_path}[peers]" in words
    assert {"pytest", "ruff"} <= set(words)
    assert kinds(environment) == ["venv", "install"]


def test_second_call_does_nothing(environment):
    environment.ensure(["peers"])
    kinds(environment)
    environment.ensure(["peers"])
    assert kinds(environment) == []


def test_what_an_earlier_call_installed_stays(environment):
    environment.ensure(["peers"])
    kinds(environment)
    environment.ensure([], ["test"])
    assert kinds(environment) == ["install"]
    stamp = json.loads(environment.STAMP.read_text())
    assert (stamp["extras"], stamp["groups"]) == (["peers"], ["test"])


def test_changed_pyproject_installs_again(environment, tmp_path):
    environment.ensure([])
    kinds(environment)
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write("\n")
    environment.ensure([])
    assert kinds(environment) == ["install"]


def test_environment_of_another_python_is_made_anew(environment):
    environment.ensure([])
    kinds(environment)
    stamp = json.loads(environment.STAMP.read_text())
    environment.STAMP.write_text(json.dumps({**stamp, "python": "3.11.0rc1"}))
    environment.ensure([])
    assert kinds(environment) == ["venv", "install"]


def test_failed_installation_is_tried_again(environment, capsys):
    environment.codes["install"] = 1
    with pytest.raises(SystemExit):
        environment.ensure([])
    assert "error: pip could not install" in capsys.readouterr().err
    environment.codes.clear()
    kinds(environment)
    environment.ensure([])
    assert kinds(environment) == ["venv", "install"]


def test_too_old_python_is_told_what_to_do(environment, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit):
        environment.ensure([])
    assert "needs 3.11 or newer" in capsys.readouterr().err
    assert kinds(environment) == []


def test_python_without_ensurepip_lends_its_pip(environment, monkeypatch):
    monkeypatch.setattr(environment, "_has_ensurepip", lambda: False)
    python = environment.ensure([])
    words = dict(environment.calls)
    assert "--without-pip" in words["venv"]
    assert words["install"][:5] == [sys.executable, "-m", "pip", "--python", str(python)]
