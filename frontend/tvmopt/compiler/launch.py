"""What it costs to hand a kernel's loop to the other cores, measured on this machine."""

import time
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T  # noqa: N812 - TVMScript's own name

from tvmopt.compiler.threads import kernel_threads

_REGIONS = 100
_ROUNDS = 50
_MOST_SECONDS = 0.3
"""Where other programs want the cores, each launch may wait for its turn."""


def region_us(threads: int) -> float:
    """Microseconds from the launch of a parallel region to its join, its workers still awake.

    The median of 50 times 100 regions in which each thread adds one number. A kernel gains from two
    cores when one of them takes more than about twice as long.
    """
    target = tvm.target.Target({"kind": "llvm", "mcpu": "generic"})
    module = tvm.IRModule({"regions": _regions(threads)})
    kernel = tvm.compile(module, target=target)["regions"]
    data = tvm.runtime.tensor(np.zeros(threads * 16, np.float32))
    times: list[float] = []
    with kernel_threads(threads):
        while len(times) < _ROUNDS and sum(times) < _MOST_SECONDS:
            start = time.perf_counter()
            kernel(data)
            times.append(time.perf_counter() - start)
    return float(np.median(times)) / _REGIONS * 1e6


def _regions(tasks: int) -> Any:
    regions, lines = _REGIONS, tasks * 16

    @T.prim_func(s_tir=True, private=False)
    def regions_of_one_addition(
        data: T.Buffer((lines,), "float32"),  # pyright: ignore[reportInvalidTypeForm]
    ):
        T.func_attr({"global_symbol": "regions", "tirx.noalias": True})
        for _ in T.serial(regions):
            for task in T.parallel(tasks):
                with T.sblock("add"):
                    data[task * 16] = data[task * 16] + T.float32(1)

    return regions_of_one_addition
