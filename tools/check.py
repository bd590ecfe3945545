"""Runs every check on the sources, in order, and says how long each took.

    python tools/check.py                    stops at the first that fails
    python tools/check.py --keep-going       runs all, then sums up
    python tools/check.py --only ruff pyright
    python tools/check.py --skip tests
    python tools/check.py --fix              lets ruff mend and format first

Needs the dependency group `dev`.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright"],
    "layers": ["lint-imports"],
    "tests": ["pytest", "-q", "-n", "2", "-m", "not slow and not device"],
}
FIXES = (["ruff", "check", "--fix", "."], ["ruff", "format", "."])


def main() -> int:
    """Runs the chosen checks; returns 0 when all passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--skip", nargs="+", choices=CHECKS, default=[])
    parser.add_argument("--keep-going", action="store_true", help="run the rest after a failure")
    parser.add_argument("--fix", action="store_true", help="let ruff mend and format first")
    given = parser.parse_args()
    for command in FIXES if given.fix else ():
        run(command)

    chosen = [name for name in CHECKS if name in given.only and name not in given.skip]
    results: dict[str, str] = {}
    for name in chosen:
        print(f"== {name}: {' '.join(CHECKS[name])}", flush=True)
        start = time.perf_counter()
        code = run(CHECKS[name])
        verdict = "passed" if code == 0 else f"FAILED ({code})"
        results[name] = f"{verdict:12} {time.perf_counter() - start:6.1f} s"
        if code and not given.keep_going:
            break

    print()
    for name in chosen:
        print(f"{name:10} {results.get(name, 'not run')}")
    passed = len(results) == len(chosen) and not any("FAILED" in r for r in results.values())
    return 0 if passed else 1


def run(command: list[str]) -> int:
    """Runs a program of this Python's environment in the project's folder."""
    program = SCRIPTS / command[0]
    if not program.exists():
        print(f"{command[0]} is not installed; `pip install --group dev` brings it", flush=True)
        return 127
    environment = {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
    # pyright resolves imports with the first `python` on PATH.
    environment["PATH"] = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [str(program), *command[1:]], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
