"""What one core of this machine can do at most, measured: what a kernel's speed is held against."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T  # noqa: N812 - TVMScript's own name

from tvmopt.compiler.bfloat16 import dot_pairs
from tvmopt.compiler.integers import fastest_dot
from tvmopt.compiler.manifest import PackageTarget
from tvmopt.compiler.tir_pipeline import TIR_PIPELINE

_CHAINS = 12
"""Independent multiply-adds: 2 units times a latency of 4 or 5 cycles; they fit 16 registers."""
_STEPS = 20_000
_COPY_BYTES = 64 << 20


@dataclass(frozen=True)
class CorePeak:
    """Multiply-adds in GFLOP/s and memory traffic (read plus written) in GB/s.

    Attributes:
        gflops: of float32.
        gbytes_per_s: of copying.
        bfloat16_gflops: of products of bfloat16 added up in float32, by the instruction for them;
            0 where the target has none.
        int8_gops: of products of 8-bit integers added up in int32, by the fastest instructions for
            them: the same operations, of integers.
    """

    gflops: float
    gbytes_per_s: float
    bfloat16_gflops: float = 0.0
    int8_gops: float = 0.0

    def of(self, products: str) -> float:
        """The peak for operands of a type, such as `Layer.products`."""
        peaks = {"bfloat16": self.bfloat16_gflops, "int8": self.int8_gops}
        return peaks.get(products, 0.0) or self.gflops


_measured: dict[str, CorePeak] = {}


def core_peak(target: PackageTarget) -> CorePeak:
    """Measures the core that this thread runs on, once per target and process; takes 0.3 s."""
    key = str(target.tvm)
    if key not in _measured:
        lanes = vector_lanes(target.isa)
        flops = 2 * _STEPS * _CHAINS * lanes
        one = np.ones(lanes, np.float32)
        numbers = _multiply_add(lanes, "float32", lambda total, a: a * total + a)
        gflops = flops / _seconds(target, numbers, one / 2)
        pairs = 0.0
        if "avx512bf16" in target.isa:
            products = _multiply_add(lanes, "int32", lambda total, a: total + dot_pairs(a, a))
            pairs = 2 * flops / _seconds(target, products, np.zeros(lanes, np.int32))
        # With sums on both sides, or the product would be the same in each step.
        size, dot = fastest_dot(frozenset(target.isa))
        quads = _multiply_add(lanes, "int32", lambda total, a: total + dot(total, a), "int32")
        integers = size * flops / _seconds(target, quads, np.ones(lanes, np.int32), "int32")
        _measured[key] = CorePeak(gflops / 1e9, _copy_gbytes_per_s(), pairs / 1e9, integers / 1e9)
    return _measured[key]


def _seconds(target: PackageTarget, func: Any, operand: Any, sums: str = "float32") -> float:
    """The time of one call of a kernel that multiplies and adds."""
    spec = {key: value for key, value in target.tvm.items() if key not in ("tag", "keys")}
    module = tvm.IRModule({"multiply_add": func})
    built = tvm.compile(module, target=tvm.target.Target(spec), tir_pipeline=TIR_PIPELINE)
    kernel = built["multiply_add"]
    given = tvm.runtime.tensor(operand)
    result = tvm.runtime.empty((_CHAINS * len(operand),), sums)
    return _fastest(lambda: kernel(given, result), 30)


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


def _multiply_add(
    lanes: int, dtype: str, step: Callable[[Any, Any], Any], sums: str = "float32"
) -> Any:
    """`acc[r] = step(acc[r], operand)` over and over, for registers `r` that do not depend."""
    chains, steps = _CHAINS, _STEPS

    @T.prim_func(s_tir=True, private=False)
    def multiply_add(
        operand: T.Buffer((lanes,), dtype),  # pyright: ignore[reportInvalidTypeForm]
        result: T.Buffer((chains * lanes,), sums),  # pyright: ignore[reportInvalidTypeForm]
    ):
        # Without `noalias` the registers are written back at each step.
        T.func_attr({"global_symbol": "multiply_add", "tirx.noalias": True})
        with T.sblock("root"):
            acc = T.alloc_buffer((chains * lanes,), sums, scope="local")
            for r in T.serial(chains):
                for lane in T.vectorized(lanes):
                    with T.sblock("init"):
                        acc[r * lanes + lane] = T.Cast(sums, 0)
            for _ in T.serial(steps):
                for r in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("update"):
                            acc[r * lanes + lane] = step(acc[r * lanes + lane], operand[lane])
            for r in T.serial(chains):
                for lane in T.vectorized(lanes):
                    with T.sblock("store"):
                        result[r * lanes + lane] = acc[r * lanes + lane]

    return multiply_add
