import os
import subprocess
import sys
import threading

import pytest

from tvmopt import UsageError
from tvmopt.compiler import threads


def test_tvm_num_threads_sets_the_default(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    assert threads.default_threads() == 1


def test_the_default_is_every_physical_core(monkeypatch):
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    assert threads.default_threads() == threads._physical_cores()


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_an_impossible_number_of_threads_is_refused(count):
    with pytest.raises(UsageError, match=f"threads must be from 1 to .* got {count}"):
        threads.check_threads(count)


def test_cpus_are_listed_once_each():
    assert sorted(threads._cpus()) == sorted(os.sched_getaffinity(0))


def test_the_environment_is_put_back_after_a_run_with_one_thread(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "7")
    seen = []

    def run():  # a thread of its own has no pool yet, whatever other tests did
        with threads.kernel_threads(1):
            seen.append(os.environ["TVM_NUM_THREADS"])

    worker = threading.Thread(target=run)
    worker.start()
    worker.join()
    assert seen == ["1"]
    assert os.environ["TVM_NUM_THREADS"] == "7"


_COUNT_THREADS = """
import os, sys
import numpy as np
from tvmopt.compiler.package import Package
package = Package.load(__import__("pathlib").Path(sys.argv[1]))
inputs = package.sample_inputs()
before = len(os.listdir("/proc/self/task"))
affinity = os.sched_getaffinity(0)
one = package.run(inputs, threads=1)["y"]
with_one = len(os.listdir("/proc/self/task"))
many = package.run(inputs, threads=len(affinity))["y"]
with_many = len(os.listdir("/proc/self/task"))
assert np.array_equal(one, many) and np.array_equal(one, package.run(inputs, threads=1)["y"])
assert os.sched_getaffinity(0) == affinity, "the caller was pinned"
print(with_one - before, with_many - before, len(affinity) - 1)
"""


@pytest.mark.slow
def test_one_thread_makes_no_worker_and_the_caller_stays_where_it_may_run(small_package_path):
    command = [sys.executable, "-c", _COUNT_THREADS, str(small_package_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    with_one, with_many, others = map(int, done.stdout.split())
    assert with_one == 0
    assert with_many == others
