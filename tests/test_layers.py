"""The layers of ARCHITECTURE hold: import-linter's contracts in pyproject.toml are kept."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    # The console script may stand outside PATH; the module cannot. The folder comes first on
    # sys.path, so that a copy of the sources is read instead of the installed ones.
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    roots = [str(folder / name) for name in ("frontend", "plugins", "schedules", "tuning_logs")]
    code = f"import sys; sys.path[:0] = {roots!r}; {code}"
    command = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_sources_keep_to_the_layers():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("importer", "imported", "contract"),
    [
        ("frontend/tvmopt/report.py", "tvmopt_plugins.layout", "The core knows no plugin"),
        ("schedules/tvmopt_schedules/cpu.py", "tvmopt.report", "The core knows no plugin"),
        ("frontend/tvmopt/report.py", "tvmopt.cli", "Inside the core"),
        (
            "plugins/tvmopt_plugins/fuse.py",
            "tvmopt_plugins.layout",
            "Plugins do not know each other",
        ),
        ("plugins/tvmopt_plugins/fuse.py", "tvmopt.compiler", "Plugins use the public names only"),
    ],
)
def test_an_import_against_the_layers_is_found(
    tmp_path: Path, importer: str, imported: str, contract: str
):
    skeleton(tmp_path)
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / importer).write_text(f"import {imported}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def skeleton(folder: Path) -> None:
    """The project's modules, empty, under its own contracts."""
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    core = [path.stem for path in (ROOT / "frontend/tvmopt").iterdir() if path.name[0] != "_"]
    packages = {
        "frontend/tvmopt": core,
        "plugins/tvmopt_plugins": ["fuse", "layout"],
        "schedules/tvmopt_schedules": ["cpu"],
        "tuning_logs/tvmopt_tuning_logs": [],
    }
    for package, modules in packages.items():
        (folder / package).mkdir(parents=True)
        for module in ["__init__", *modules]:
            (folder / package / f"{module}.py").touch()
