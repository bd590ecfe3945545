"""Kernels with bfloat16 are lowered on several threads at once."""

import subprocess
import sys

# In a process of its own: an operator is registered once in a process, and stays.
_SCRIPT = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import tvm
from tvm import te
from tvmopt.compiler.bfloat16 import store_bfloat16

sys.setswitchinterval(1e-6)
x = te.placeholder((8,), "float32", name="x")
func = te.create_prim_func([x, te.compute((8,), lambda i: x[i].astype("bfloat16"), name="y")])
begin = threading.Barrier(8)

def lower(_number):
    begin.wait()
    return store_bfloat16(func, None, None)

with ThreadPoolExecutor(8) as pool:
    list(pool.map(lower, range(8)))
"""


def test_roundings_are_first_seen_by_many_threads_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
