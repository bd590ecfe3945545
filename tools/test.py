"""Sets up tvmopt in `.venv` with what its tests need, and runs them.

    python3 tools/test.py                  everything that takes no long
    python3 tools/test.py --slow           the slow tests too
    python3 tools/test.py tests/cli -x     arguments go to pytest

The project's CI runs the first.
"""

import os
import subprocess
import sys

from environment import ROOT, ensure

MOST_WORKERS = 4


def main() -> int:
    """Runs pytest in the environment; returns its exit code."""
    arguments = sys.argv[1:]
    python = ensure(extras=["peers"], groups=["test"])
    command = [str(python), "-m", "pytest"]
    if "--slow" in arguments:
        arguments.remove("--slow")
    else:
        command += ["-m", "not slow and not device"]
    # Several workers with one thread each: tests check results, not speed.
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    command += ["-n", str(workers), "-q", *arguments]
    environment = dict(os.environ)
    for variable in ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(variable, "1")
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
