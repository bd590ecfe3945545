"""What this machine's CPU has, as the Linux kernel tells it."""

import os
from functools import cache
from pathlib import Path

# The kernel's names where LLVM's differ in more than an underscore.
_LLVM_NAMES = {"sse4_1": "sse4.1", "sse4_2": "sse4.2", "avx_vnni": "avxvnni"}


def _llvm_name(flag: str) -> str:
    if flag.startswith("amx_"):
        return flag.replace("_", "-")
    return _LLVM_NAMES.get(flag, flag.replace("avx512_", "avx512"))


@cache
def features() -> frozenset[str]:
    """CPU features in LLVM's names; empty where the kernel does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            flags = line.partition(":")[2].split()
            return frozenset(_llvm_name(flag) for flag in flags)
    return frozenset()


@cache
def vendor_and_family() -> tuple[str, int]:
    """The vendor's name in CPUID, such as `AuthenticAMD`, and the CPU family; else empty and 0."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "", 0
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    family = fields.get("cpu family", "")
    return fields.get("vendor_id", ""), int(family) if family.isdecimal() else 0


@cache
def cache_bytes() -> tuple[int, int, int]:
    """Sizes of the level-1 data, level-2 and level-3 caches in bytes.

    Untold ones count as 32 KiB, 1 MiB, and none.
    """
    sizes = {1: 32 << 10, 2: 1 << 20, 3: 0}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in sizes and size.endswith("K"):
            sizes[level] = int(size[:-1]) << 10
    return sizes[1], sizes[2], sizes[3]


@cache
def physical_cores() -> int:
    """Physical cores that this process may use (hyper-threads counted once)."""
    allowed = os.sched_getaffinity(0)
    cores: set[str] = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(path.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)
