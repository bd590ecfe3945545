"""What one core of this machine can do at most, measured: what a kernel's speed is held against."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T  # noqa: N812 - TVMScript's own name

from tvmopt.compiler.executor import Tensor
from tvmopt.compiler.manifest import PackageTarget

_CHAINS = 12
"""Independent multiply-adds: 2 units times a latency of 4 or 5 cycles; they fit 16 registers."""
_STEPS = 20_000
_COPY_BYTES = 64 << 20


@dataclass(frozen=True)
class CorePeak:
    """Float32 multiply-adds in GFLOP/s and memory traffic (read plus written) in GB/s."""

    gflops: float
    gbytes_per_s: float


_measured: dict[str, CorePeak] = {}


def core_peak(target: PackageTarget) -> CorePeak:
    """Measures the core that this thread runs on, once per target and process; takes 0.3 s."""
    key = str(target.tvm)
    if key not in _measured:
        _measured[key] = CorePeak(_fma_gflops(target), _copy_gbytes_per_s())
    return _measured[key]


def _fma_gflops(target: PackageTarget) -> float:
    lanes = vector_lanes(target.isa)
    spec = {key: value for key, value in target.tvm.items() if key not in ("tag", "keys")}
    module = tvm.IRModule({"multiply_add": _multiply_add(lanes)})
    kernel = tvm.compile(module, target=tvm.target.Target(spec))["multiply_add"]
    factor, summand = _filled(lanes, 0.5), _filled(lanes, 1.0)
    result = tvm.runtime.empty((_CHAINS * lanes,), "float32")
    seconds = _fastest(lambda: kernel(factor, summand, result), 30)
    return 2 * _STEPS * _CHAINS * lanes / seconds / 1e9


@cache
def _copy_gbytes_per_s() -> float:
    source = np.ones(_COPY_BYTES, np.uint8)
    copy = np.empty_like(source)
    return 2 * _COPY_BYTES / _fastest(lambda: np.copyto(copy, source), 5) / 1e9


def vector_lanes(isa: tuple[str, ...]) -> int:
    """Float32 lanes of the widest vector registers among these CPU features."""
    return 16 if "avx512f" in isa else 8 if "avx" in isa else 4


def _fastest(run: Callable[[], object], times: int) -> float:
    run()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _filled(size: int, value: float) -> Tensor:
    return tvm.runtime.tensor(np.full(size, value, np.float32))


def _multiply_add(lanes: int) -> Any:
    """`acc[r] = acc[r] * factor + summand` over and over, for registers `r` that do not depend."""
    chains, steps = _CHAINS, _STEPS

    @T.prim_func(s_tir=True, private=False)
    def multiply_add(
        factor: T.Buffer((lanes,), "float32"),  # pyright: ignore[reportInvalidTypeForm]
        summand: T.Buffer((lanes,), "float32"),  # pyright: ignore[reportInvalidTypeForm]
        result: T.Buffer((chains * lanes,), "float32"),  # pyright: ignore[reportInvalidTypeForm]
    ):
        # Without `noalias` the registers are written back at each step.
        T.func_attr({"global_symbol": "multiply_add", "tirx.noalias": True})
        with T.sblock("root"):
            acc = T.alloc_buffer((chains * lanes,), "float32", scope="local")
            for r in T.serial(chains):
                for lane in T.vectorized(lanes):
                    with T.sblock("init"):
                        acc[r * lanes + lane] = summand[lane]
            for _ in T.serial(steps):
                for r in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("update"):
                            acc[r * lanes + lane] = (
                                acc[r * lanes + lane] * factor[lane] + summand[lane]
                            )
            for r in T.serial(chains):
                for lane in T.vectorized(lanes):
                    with T.sblock("store"):
                        result[r * lanes + lane] = acc[r * lanes + lane]

    return multiply_add
