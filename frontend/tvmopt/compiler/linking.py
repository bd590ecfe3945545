"""Object files become a shared library, with whatever linker the machine has."""

import errno
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvmopt.compiler.codegen import write_objects
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
    module = executable.mod
    compiled = [one for one in _imported(module) if one.is_compilation_exportable()]
    objects = write_objects(compiled, path.parent)
    # The bytecode of the VM, as data.
    pack = tvm.get_global_func("runtime.ModulePackImportsToLLVM")
    bytecode = path.parent / "bytecode.o"
    pack(module, False, compiled[0]["_get_target_string"](), "").write_to_file(str(bytecode))  # noqa: FBT003 - TVM's signature
    # -s: half the size; kernels are found by the dynamic symbols, which stay.
    run = [*command, "-shared", "-s", "-o", str(path), *map(str, objects), str(bytecode)]
    environment = {**os.environ, "TMPDIR": str(path.parent)}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise _link_error(command[0], done.stderr or done.stdout, path.parent)


def _imported(module: Any) -> list[Any]:
    """All modules that `module` imports, also by way of others."""
    return [found for one in module.imports for found in (one, *_imported(one))]


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
