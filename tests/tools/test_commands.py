"""The README's two commands are the ones that exist, and CI calls the second."""

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands_in_readme() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^python3 \S+.*$", text, re.MULTILINE)


def test_readme_begins_with_the_two_commands():
    assert commands_in_readme()[:2] == ["python3 tools/quickstart.py", "python3 tools/test.py"]


def test_ci_calls_exactly_the_second_command():
    lines = [
        line.removeprefix("exec ")
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert lines == [commands_in_readme()[1]]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_quickstart_calls_commands_that_exist(load_tool):
    from tvmopt.cli import app

    quickstart = load_tool("quickstart")
    for _, (program, first, *_) in quickstart.STEPS:
        if program == "tvmopt":
            assert first in {p.stem for p in Path(app.__file__).parent.glob("*.py")}
        else:
            assert (ROOT / first).is_file()


def test_extras_and_groups_that_the_commands_install_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "peers" in project["project"]["optional-dependencies"]
    assert "test" in project["dependency-groups"]


def test_torch_comes_with_one_extra_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    naming = [name for name, items in extras.items() if any(i.startswith("torch") for i in items)]
    assert naming == ["train"]
    assert not [item for item in project["dependencies"] if item.startswith("torch")]
