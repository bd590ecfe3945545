"""Kernels become LLVM modules and object files, on all cores.

Lowering and LLVM take most of a compilation. TVM and LLVM let go of Python's lock while they work,
and every LLVM module has a context of its own, so threads do: they share the memory of the graph,
and none outlives its work. One process compiles YOLOv8n's kernels in 14.2 s on one core, and on two
cores in 6.2 s.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import tvm
import tvm_ffi
from tvm import tirx

from tvmopt.compiler.tir_pipeline import TIR_PIPELINE

_PARTS = 32
"""The most LLVM modules of one model. A module costs about 15 ms of its own; as many as there are
cores would cost less, but then the package's bytes would depend on the machine."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def compile_kernels(
    mod: tvm.IRModule, target: tvm.target.Target, config: dict[str, Any]
) -> list[tvm.runtime.Module]:
    """Lowers the scheduled PrimFuncs of `mod` and runs LLVM's optimizer on them.

    Args:
        mod: what is no PrimFunc in it is left out.
        target: what they are for.
        config: of TVM's `PassContext`.

    Returns:
        One to `_PARTS` LLVM modules that together hold all kernels, always the same ones.
    """

    def compile_part(part: dict[tvm.ir.GlobalVar, tirx.PrimFunc]) -> tvm.runtime.Module:
        # Target and context are those of one thread.
        try:
            with target, tvm.transform.PassContext(opt_level=3, config=config):
                return tvm.tirx.build(tvm.IRModule(part), target, pipeline=TIR_PIPELINE)
        except Exception as error:
            names = " or ".join(f"'{var.name_hint}'" for var in part)
            error.add_note(f"in the kernel {names}")
            raise

    # LLVM's initialization is for one thread; and a model without kernels needs a module too.
    empty = compile_part({})
    parts = _parts({v: f for v, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)})
    return on_all_cores(compile_part, parts) or [empty]


def write_objects(modules: Sequence[tvm.runtime.Module], folder: Path) -> list[Path]:
    """Emits the machine code of LLVM modules: `kernels0.o`, `kernels1.o`, ... in `folder`."""

    def write(numbered: tuple[int, tvm.runtime.Module]) -> Path:
        number, module = numbered
        path = folder / f"kernels{number}.o"
        module.write_to_file(str(path))
        return path

    return on_all_cores(write, list(enumerate(modules)))


def on_all_cores(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """`work` of every item, in their order; for work that lets go of Python's lock.

    Raises:
        Exception: of the first item that fails. As after Ctrl-C, nothing new is begun, and what
            runs is waited for.
    """
    if not items:
        return []
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(min(cores, len(items)), "tvmopt-codegen") as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _parts(
    kernels: dict[tvm.ir.GlobalVar, tirx.PrimFunc],
) -> list[dict[tvm.ir.GlobalVar, tirx.PrimFunc]]:
    """Kernels in at most `_PARTS` groups of about the same size, the largest first.

    The next kernel in order of size goes to the group that is smallest so far (Graham, "Bounds on
    Multiprocessing Timing Anomalies", 1969: at most a third above the best).
    """
    sizes = {var: _size(func) for var, func in kernels.items()}
    parts: list[dict[tvm.ir.GlobalVar, tirx.PrimFunc]] = [
        {} for _ in range(min(_PARTS, len(kernels)))
    ]
    totals = [0] * len(parts)
    for var in sorted(kernels, key=lambda var: (-sizes[var], var.name_hint)):
        smallest = totals.index(min(totals))
        parts[smallest][var] = kernels[var]
        totals[smallest] += sizes[var]
    order = sorted(range(len(parts)), key=lambda index: -totals[index])
    return [parts[index] for index in order]


def _size(kernel: tirx.PrimFunc) -> int:
    """Statements and loads of a kernel; what LLVM gets grows with them."""
    count = 0

    def add(_node: Any) -> None:
        nonlocal count
        count += 1

    tvm_ffi.structural_walk(kernel.body, ((tirx.Stmt, tvm.ir.TensorLoad), add))
    return count
