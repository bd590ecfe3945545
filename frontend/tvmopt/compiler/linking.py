"""Object files become a shared library, with whatever linker the machine has."""

import errno
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from tvmopt.errors import MissingPackageError, TvmoptError

_COMPILERS = ("cc", "gcc", "clang")
_LINKERS = ("ld.lld", "ld")
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 164: "hexagon", 243: "riscv64"}


def export_library(executable: relax.VMExecutable, path: Path) -> None:
    """Writes the executable as a shared library without symbols that nobody looks up.

    Object files and what the linker keeps aside lie beside it while it is made.

    Raises:
        MissingPackageError: there is nothing to link with.
        TvmoptError: the linker failed.
    """
    command = find_linker()
    folder = str(path.parent)

    def link(output: str, objects: Sequence[str], _options: object = None, **_more: object) -> None:
        # -s: half the size; kernels are found by the dynamic symbols, which stay.
        run = [*command, "-shared", "-s", "-o", output, *objects]
        done = subprocess.run(
            run, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": folder}
        )
        if done.returncode:
            raise _link_error(command[0], done.stderr or done.stdout, path.parent)

    executable.export_library(str(path), fcompile=link, workspace_dir=folder)


def _link_error(program: str, output: str, folder: Path) -> TvmoptError:
    lines = output.strip().splitlines() or ["no message"]
    full = os.strerror(errno.ENOSPC)
    for line in lines:
        if full in line:  # the last line is the compiler's, and tells only that its linker failed
            hint = f"'{folder.parent}' is full: make room there, or set TMPDIR"
            return TvmoptError(f"'{program}' failed to link the library: {line}", hint)
    return TvmoptError(f"'{program}' failed to link the library: {lines[-1]}")


def check_machine(library: Path, arch: str) -> None:
    """Checks that a library is for the machine that it was built for.

    TVM builds for this machine in silence where a target names no host of its own.
    """
    with library.open("rb") as file:
        header = file.read(20)
    machine = _ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
    if header[:4] == b"\x7fELF" and machine and arch in _ELF_MACHINES.values():
        assert machine == arch, f"the library is for {machine}, not for {arch}"


def find_linker() -> list[str]:
    """The command that links: `$CC`, a C compiler, the `ziglang` package, or a bare linker.

    Raises:
        MissingPackageError: none of them is there.
    """
    given = os.environ.get("CC")
    if given and shutil.which(shlex.split(given)[0]):
        return [*shlex.split(given), "-fPIC"]
    for name in _COMPILERS:
        if path := shutil.which(name):
            return [path, "-fPIC"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    for name in _LINKERS:
        if path := shutil.which(name):
            return [path]
    raise MissingPackageError(
        "there is no C compiler to link the library with",
        "install gcc or clang, or: pip install ziglang",
    )
