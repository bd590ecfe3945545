"""The page about hooks says exactly what hookspecs.py says."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from tvmopt import hookspecs, plugins

SOURCE = Path(inspect.getfile(hookspecs)).read_text(encoding="utf-8")
PAGE = (Path(__file__).parents[1] / "plugins" / "README.md").read_text(encoding="utf-8")
SPECS = {
    node.name: node
    for node in ast.parse(SOURCE).body
    if isinstance(node, ast.FunctionDef)
    and any(isinstance(mark, ast.Name) and mark.id == "hookspec" for mark in node.decorator_list)
}


def _signature(spec: ast.FunctionDef) -> str:
    returns = ast.unparse(spec.returns) if spec.returns else "None"
    text = f"{spec.name}({ast.unparse(spec.args)}) -> {returns}"
    return text.replace("'", "").replace('"', "")


def test_there_are_hooks_to_document():
    assert "tvmopt_register_passes" in SPECS


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_documented_with_its_exact_arguments(name: str):
    assert f"\n### `{_signature(SPECS[name])}`\n" in PAGE


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_documented_with_its_own_first_sentence(name: str):
    docstring = ast.get_docstring(SPECS[name])
    assert docstring
    section = PAGE.split(f"### `{name}(")[1].split("\n###")[0]
    assert " ".join(docstring.splitlines()[0].split()) in " ".join(section.split())


def test_no_hook_is_documented_that_does_not_exist():
    assert set(re.findall(r"^### `(tvmopt_\w+)\(", PAGE, re.MULTILINE)) == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_called_by_the_core(name: str):
    assert f'"{name}"' in inspect.getsource(plugins)
