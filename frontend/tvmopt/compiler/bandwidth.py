"""How fast arrays of a size are read, measured: from the cache that holds them, or from memory."""

import time
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T  # noqa: N812 - TVMScript's own name

from tvmopt.compiler.manifest import PackageTarget
from tvmopt.compiler.threads import kernel_threads

_LEAST_BYTES = 64 << 10
_MOST_BYTES = 256 << 20
"""Larger than any cache; more would only take longer."""
_LANES = 16
_CHAINS = 8
_PIECES = 16
_ROW = _LANES * _CHAINS
_BYTES_READ = 256 << 20  # of each measurement, in all

_measured: dict[tuple[str, int, int], float] = {}
_kernels: dict[str, Any] = {}


def read_gbytes_per_s(target: PackageTarget, size_bytes: int, threads: int) -> float:
    """Reading an array over and over, in GB/s of all threads together; measured once a size.

    Args:
        target: what the package is for.
        size_bytes: of the array; sizes up to the same power of two count as one.
        threads: that share the array.
    """
    size = _LEAST_BYTES
    while size < min(size_bytes, _MOST_BYTES):
        size *= 2
    key = str(target.tvm), size, threads
    if key not in _measured:
        _measured[key] = _measure(target, size, threads)
    return _measured[key]


def _measure(target: PackageTarget, size_bytes: int, threads: int) -> float:
    name = str(target.tvm)
    if name not in _kernels:
        spec = {key: value for key, value in target.tvm.items() if key not in ("tag", "keys")}
        module = tvm.IRModule({"read": _read()})
        _kernels[name] = tvm.compile(module, target=tvm.target.Target(spec))["read"]
    rows = size_bytes // (4 * _ROW * _PIECES)
    data = tvm.runtime.tensor(np.ones((_PIECES, rows, _ROW), np.float32))
    result = tvm.runtime.empty((_PIECES, _ROW), "float32")
    best = float("inf")
    with kernel_threads(threads):
        for _ in range(max(3, min(500, _BYTES_READ // size_bytes))):
            start = time.perf_counter()
            _kernels[name](data, result)
            best = min(best, time.perf_counter() - start)
    return size_bytes / best / 1e9


def _read() -> Any:
    """Sums of the columns of `data`, a piece of it in each thread."""
    pieces, row, chains, lanes = _PIECES, _ROW, _CHAINS, _LANES

    @T.prim_func(s_tir=True, private=False)
    def read(data_handle: T.handle, result_handle: T.handle):
        T.func_attr({"global_symbol": "read", "tirx.noalias": True})
        rows = T.int64()
        data = T.match_buffer(data_handle, (pieces, rows, row), "float32")
        result = T.match_buffer(result_handle, (pieces, row), "float32")
        with T.sblock("root"):
            for piece in T.parallel(pieces):
                for c in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("first"):
                            result[piece, c * lanes + lane] = data[piece, 0, c * lanes + lane]
                for r in T.serial(rows - 1):
                    for c in T.unroll(chains):
                        for lane in T.vectorized(lanes):
                            with T.sblock("add"):
                                result[piece, c * lanes + lane] = (
                                    result[piece, c * lanes + lane]
                                    + data[piece, r + 1, c * lanes + lane]
                                )

    return read
