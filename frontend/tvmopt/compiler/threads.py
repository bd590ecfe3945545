"""How many threads the kernels of the calling thread use.

TVM keeps one pool of worker threads per calling thread, and fixes its size when a kernel first
needs it: half the logical CPUs, whether or not they are hyper-threads. It also pins the *caller* to
the CPUs of the pool, for good. So the pool is made here, with a worker for every CPU that this
process may use, and the caller's affinity is put back.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import tvm_ffi

from tvmopt.compiler.runtime import load_runtime
from tvmopt.errors import UsageError

_ENV = "TVM_NUM_THREADS"
_SPIN_ENV = "TVM_THREAD_POOL_SPIN_COUNT"
_SPIN_COUNT = "10000"
"""Yields before an idle worker sleeps, about 3 ms: longer than any gap inside one run. TVM's own
300000 keep the cores busy for 0.1 s after it, which whoever runs next has to share."""

_SHARE_CORES = -3
"""TVM's `kSpecifyThreadShareAllCore`: each worker may run on any CPU of the pool.

A worker that is bound to one CPU waits there while another program, or the caller itself, has it:
with two more programs on two cores, MobileNetV2 took 14.9 ms (a tenth of the runs 236 ms) with
bound workers, and 5.6 ms (6.2 ms) with these. On idle cores both take the same."""


class _State(threading.local):
    has_pool = False
    threads = 0


_state = _State()
_lock = threading.Lock()
_inline_runs = 0
_env_before: str | None = None


def default_threads() -> int:
    """`TVM_NUM_THREADS` where it is set, else the physical cores that this process may use."""
    given = os.environ.get(_ENV, "") if not _inline_runs else (_env_before or "")
    if given.isdecimal() and int(given):
        return min(int(given), len(_cpus()))
    return _physical_cores()


def check_threads(threads: int | None) -> int:
    """The number to use for what the user said; None is the default.

    Raises:
        UsageError: less than one, or more than there are CPUs.
    """
    if threads is None:
        return default_threads()
    available = len(_cpus())
    if not 1 <= threads <= available:
        raise UsageError(f"threads must be from 1 to {available} on this machine, got {threads}")
    return threads


@contextmanager
def kernel_threads(threads: int) -> Generator[None]:
    """Runs kernels with this many threads; with one, no worker is made or woken."""
    if threads == 1 and not _state.has_pool:
        with _without_pool():
            yield
        return
    if _state.threads != threads:
        _configure(threads)
    yield


def _configure(threads: int) -> None:
    affinity = os.sched_getaffinity(0)
    os.environ.setdefault(_SPIN_ENV, _SPIN_COUNT)
    cpus = [str(cpu) for cpu in _cpus()]
    load_runtime()
    config = tvm_ffi.get_global_func("runtime.config_threadpool")
    try:
        if not _state.has_pool:
            config(_SHARE_CORES, len(cpus), cpus)  # the pool's size, once and for all
            _state.has_pool = True
        # As many CPUs as threads: with one, TVM calls kernels directly instead of the pool.
        config(_SHARE_CORES, threads, cpus[:threads])
        _state.threads = threads
    finally:
        os.sched_setaffinity(0, affinity)


@contextmanager
def _without_pool() -> Generator[None]:
    # TVM asks the environment at each launch as long as this thread has no pool; the value is put
    # back when the last such run ends, so that child processes do not inherit it.
    global _inline_runs, _env_before
    with _lock:
        if _inline_runs == 0:
            _env_before = os.environ.get(_ENV)
            os.environ[_ENV] = "1"
        _inline_runs += 1
    try:
        yield
    finally:
        with _lock:
            _inline_runs -= 1
            if _inline_runs == 0:
                if _env_before is None:
                    del os.environ[_ENV]
                else:
                    os.environ[_ENV] = _env_before


@cache
def _cpus() -> tuple[int, ...]:
    """The CPUs of this process: one per physical core first, then their hyper-threads."""
    first: list[int] = []
    others: list[int] = []
    seen: set[str] = set()
    for cpu in sorted(os.sched_getaffinity(0)):
        core = _core_of(cpu)
        (others if core in seen else first).append(cpu)
        seen.add(core)
    return (*first, *others)


@cache
def _physical_cores() -> int:
    return len({_core_of(cpu) for cpu in _cpus()})


def _core_of(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
