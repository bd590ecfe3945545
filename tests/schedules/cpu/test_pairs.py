"""The operators of pairs of bfloat16."""

import subprocess
import sys

THREADS = """
import sys, threading
from tvm import tirx
from tvmopt_schedules.cpu.code import pairs

sys.setswitchinterval(1e-6)
barrier, made = threading.Barrier(8), []

def multiply():
    one = tirx.const(1, "int32")
    barrier.wait()
    made.append(pairs.dot_pairs(one, one))

threads = [threading.Thread(target=multiply) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(made) == 8
"""


def test_threads_may_use_an_operator_at_once_for_the_first_time() -> None:
    """In a fresh process: the operators are registered once."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
