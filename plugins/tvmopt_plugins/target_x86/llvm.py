"""What TVM's LLVM knows of x86 CPUs."""

import tvm
from tvm.target import codegen

from tvmopt import UsageError


def cpu_name(mcpu: str | None) -> str:
    """LLVM's name for the CPU: `mcpu` if given, else this machine's."""
    return mcpu or str(codegen.llvm_get_system_cpu())


def cpu_features(mcpu: str) -> frozenset[str]:
    """Features of the CPU `mcpu`, in LLVM's names.

    Raises:
        UsageError: LLVM knows no such CPU.
    """
    known = [str(name) for name in codegen.llvm_get_cpu_archlist({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu"})]
    if mcpu not in known:
        from difflib import get_close_matches

        near = get_close_matches(mcpu, known, n=1)
        raise UsageError(
            f"LLVM knows no x86-64 CPU called '{mcpu}'",
            f"did you mean '{near[0]}'?" if near else None,
        )
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": mcpu})
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))
