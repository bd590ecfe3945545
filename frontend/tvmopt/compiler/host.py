"""Whether this machine can run code that was compiled for a certain CPU."""

import platform
from functools import cache
from pathlib import Path

from tvmopt.compiler.manifest import PackageTarget
from tvmopt.errors import PackageError

# Where the Linux kernel's name of a feature is not LLVM's, underscores aside.
_LLVM_NAMES = {
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
}


@cache
def cpu_features() -> frozenset[str]:
    """What this CPU has, in LLVM's names; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in ("flags", "Features"):
            return frozenset(
                _LLVM_NAMES.get(flag, flag.replace("avx512_", "avx512")) for flag in value.split()
            )
    return frozenset()


def missing_features(target: PackageTarget) -> list[str]:
    """What this CPU lacks of the target's instruction set; nothing where it does not tell."""
    present = cpu_features()
    return [feature for feature in target.isa if feature not in present] if present else []


def runs_here(target: PackageTarget) -> bool:
    """Whether this machine has the architecture and the instruction set."""
    return target.arch == platform.machine() and not missing_features(target)


def check_runs_here(target: PackageTarget, origin: str) -> None:
    """Checks the architecture and the instruction set.

    Raises:
        PackageError: this machine lacks something, with what can be done.
    """
    here = platform.machine()
    if target.arch != here:
        raise PackageError(
            f"package '{origin}' is for {target.arch} ('{target.name}'), this machine is {here}",
            f"run it on such a machine, or {_recompile_hint()}",
        )
    missing = missing_features(target)
    if missing:
        raise PackageError(
            f"package '{origin}' is for '{target.name}', and this CPU lacks {', '.join(missing)}",
            _recompile_hint(),
        )


def _recompile_hint() -> str:
    fitting = _targets_that_run_here()
    return f"compile the model with --target {' or '.join(fitting) or 'for this machine'}"


def _targets_that_run_here() -> list[str]:
    from tvmopt.plugins import Plugins

    plugins = Plugins.load()
    names: list[str] = []
    for name in plugins.target_names():
        try:
            backend = plugins.backend(name)
            arch = str(backend.target().export().get("mtriple", "")).partition("-")[0]
            fits = arch == platform.machine() and set(backend.isa()) <= cpu_features()
        except Exception:  # noqa: BLE001 - a backend that fails here is none to recommend
            continue
        if fits:
            names.append(name)
    return names
