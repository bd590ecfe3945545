"""Sentences of the docstrings of Python's standard library."""

import ast
import re
from collections.abc import Iterator

import numpy as np

from trained.source_lines import MODULES, sources_of

LEAST_LENGTH, MOST_LENGTH = 30, 240  # characters
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sentences(seed: int) -> list[str]:
    """All of them in a random order, each once."""
    found = sorted({one for module in MODULES for one in _of(module)})
    return [found[index] for index in np.random.default_rng(seed).permutation(len(found))]


def _of(module: str) -> Iterator[str]:
    for path in sources_of(module):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, _DOCUMENTED):
                continue
            for sentence in _END.split(ast.get_docstring(node) or ""):
                words = " ".join(sentence.split())
                if LEAST_LENGTH <= len(words) <= MOST_LENGTH:
                    yield words
