"""What pip installs from the wheel is what the sources are, and works without them."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOTS = ("frontend", "plugins", "schedules", "tuning_logs")
PACKAGES = {"tvmopt", "tvmopt_plugins", "tvmopt_schedules", "tvmopt_tuning_logs"}
ENTRY_POINTS = "tvmopt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # hatchling itself: `pip wheel` would fetch it anew into an isolated environment.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [n for n in archive.namelist() if n.endswith(f".dist-info/{name}")]
        return archive.read(member).decode()


def test_wheel_holds_the_four_packages_and_nothing_else(names: set[str]):
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_every_file_of_the_packages(names: set[str]):
    listed = subprocess.run(
        ["git", "ls-files", *ROOTS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("the sources are no git checkout")
    tracked = {line.partition("/")[2] for line in listed.stdout.splitlines()}
    inside = {name for name in tracked if name.split("/")[0] in PACKAGES}
    inside = {name for name in inside if any((ROOT / root / name).exists() for root in ROOTS)}
    assert len(inside) > 20
    assert inside <= names


def test_wheel_has_the_entry_points_of_the_project(wheel: Path):
    parser = ConfigParser()
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(parser["console_scripts"]) == PROJECT["scripts"]
    assert dict(parser[ENTRY_POINTS]) == PROJECT["entry-points"][ENTRY_POINTS]


def test_every_entry_point_names_a_module_of_the_wheel(names: set[str]):
    for module in PROJECT["entry-points"][ENTRY_POINTS].values():
        path = module.replace(".", "/")
        assert {f"{path}.py", f"{path}/__init__.py"} & names, module


def test_wheel_keeps_the_pin_that_prevents_a_crash(wheel: Path):
    # apache-tvm-ffi 0.1.15 ends MetaSchedule of TVM 0.27 with a segmentation fault.
    headers = message_from_string(metadata(wheel, "METADATA"))
    (pin,) = [r for r in headers.get_all("Requires-Dist", []) if r.startswith("apache-tvm-ffi")]
    assert "<0.1.15" in pin


def test_wheel_brings_its_licence(wheel: Path, names: set[str]):
    assert message_from_string(metadata(wheel, "METADATA"))["License-Expression"] == "Apache-2.0"
    assert [name for name in names if name.endswith("LICENSE")]


def test_versions_agree():
    import tvmopt

    assert tvmopt.__version__ == PROJECT["version"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of an environment that has the wheel, and only the wheel, of tvmopt."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # The dependencies are those of this environment. A folder that a .pth file names is searched
    # for modules, but the .pth file in it that leads to the sources is not read.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_modules_come_from_the_wheel(installed: Path, tmp_path: Path):
    code = f"import {', '.join(sorted(PACKAGES))}; print(*[m.__file__ for m in ("
    code += f"{', '.join(sorted(PACKAGES))})])"
    files = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert len(files) == len(PACKAGES)
    assert all(file.startswith(str(installed.parent)) for file in files)


def test_installed_wheel_has_all_its_plugins(installed: Path, tmp_path: Path):
    output = run(installed / "tvmopt", "plugins", "--json", cwd=tmp_path)
    errors = {plugin["name"]: plugin["error"] for plugin in json.loads(output)["plugins"]}
    assert errors == dict.fromkeys(PROJECT["entry-points"][ENTRY_POINTS], "")


def test_installed_wheel_compiles_verifies_and_runs_the_digits_model(
    installed: Path, tmp_path: Path
):
    model = ROOT / "tools/digits/digits.onnx"
    package = tmp_path / "digits.tvmpkg"
    run(installed / "tvmopt", "compile", model, "-o", package, cwd=tmp_path)
    score = run(installed / "python", ROOT / "tools/score_digits.py", package, cwd=tmp_path)
    assert "of 360 test images are right" in score
