"""Sets up `.venv` with the project in it. Needs Python 3.11 or newer and pip, nothing else.

The scripts `quickstart.py` and `test.py` call `ensure`; a second call finds the environment as it
is and takes no time.
"""

from __future__ import annotations  # an older Python shall reach the check of its version

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
STAMP = FOLDER / "tvmopt-setup.json"
OLDEST = (3, 11)


def ensure(extras: list[str], groups: list[str] | None = None) -> Path:
    """Makes `.venv` hold the project with these extras and dependency groups.

    What an earlier call installed stays.

    Args:
        extras: names under `[project.optional-dependencies]`.
        groups: names under `[dependency-groups]`.

    Returns:
        The path of the environment's Python.
    """
    if sys.version_info < OLDEST:
        fail(
            f"Python {sys.version.split()[0]} is too old; tvmopt needs 3.11 or newer",
            f"run this script with another one, such as `python3.11 {sys.argv[0]}`",
        )
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    base = {
        "folder": str(FOLDER),
        "python": sys.version.split()[0],
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
    }
    before = _read_stamp()
    if before.get("folder") != base["folder"] or before.get("python") != base["python"]:
        before = {}  # moved, made by another Python, or never finished
    wanted = {
        **base,
        "extras": sorted({*extras, *before.get("extras", [])}),
        "groups": sorted({*(groups or []), *before.get("groups", [])}),
    }
    if wanted == before and _works(python):
        return python
    if not (before and _works(python)):
        _create()
    STAMP.unlink(missing_ok=True)
    _install(python, wanted["extras"], wanted["groups"])
    STAMP.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return python


def fail(message: str, hint: str) -> NoReturn:
    """Ends the script with a line that says what is wrong and one that says what to do."""
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    raise SystemExit(1)


def say(line: str) -> None:
    """Prints a line at once, so that it stands before what the next program prints."""
    print(line, flush=True)


def _read_stamp() -> dict[str, Any]:
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _works(python: Path) -> bool:
    try:
        done = subprocess.run([python, "-c", ""], stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _has_ensurepip() -> bool:
    # Debian splits it off into the package python3-venv.
    return importlib.util.find_spec("ensurepip") is not None


def _create() -> None:
    say(f"creating {FOLDER.relative_to(ROOT)} with Python {sys.version.split()[0]}")
    command = [sys.executable, "-m", "venv", "--clear", str(FOLDER)]
    if not _has_ensurepip():
        command.insert(-1, "--without-pip")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        fail("the virtual environment could not be created", "the lines above say why")


def _install(python: Path, extras: list[str], groups: list[str]) -> None:
    names = ",".join(extras)
    say(f"installing tvmopt{f'[{names}]' if names else ''} {' '.join(groups)}".rstrip())
    pip = [str(python), "-m", "pip"]
    if not _has_ensurepip():
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
    project = f"{ROOT}[{names}]" if names else str(ROOT)
    command = [*pip, "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--editable", project, *_requirements(groups)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        fail(
            "pip could not install tvmopt and what it needs",
            "the lines above say why; run the same command again once that is mended",
        )


def _requirements(groups: list[str]) -> list[str]:
    """The requirements of dependency groups; pip older than 25.1 has no `--group`."""
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[str] = []
    todo = list(groups)
    while todo:
        for item in table["dependency-groups"][todo.pop()]:
            if isinstance(item, str):
                found.append(item)
            else:
                todo.append(item["include-group"])
    return found
