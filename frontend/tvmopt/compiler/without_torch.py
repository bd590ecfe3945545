"""Keeps torch out of processes that import tvm.

tvm_ffi imports torch wherever it is installed, against a symbol conflict on Windows, and so does
`tvm.relax`, for a class that nothing here uses: several seconds and 150 MB. Both take a missing
torch well, so they are shown none.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NAMES = ("tvm_ffi", "tvm")


def hide_torch_from_tvm() -> None:
    """Installs `_Finder` for packages that are not imported yet."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds tvm as Python does, and runs its `__init__` in a world without torch."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _NAMES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _no_torch():
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


@contextmanager
def _no_torch() -> Generator[None]:
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]
