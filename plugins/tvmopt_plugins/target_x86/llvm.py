"""What TVM's LLVM knows of x86 CPUs."""

from difflib import get_close_matches

import tvm
from tvm.target import codegen

from tvmopt import UsageError

TRIPLE = "x86_64-unknown-linux-gnu"


def this_cpu() -> str:
    """LLVM's name for this machine's CPU."""
    return str(codegen.llvm_get_system_cpu())


def cpu_features(mcpu: str) -> frozenset[str]:
    """Features of the CPU `mcpu`, in LLVM's names.

    Raises:
        UsageError: LLVM knows no such CPU.
    """
    generic = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLE})
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(generic)]
    if mcpu not in known:
        near = get_close_matches(mcpu, known, n=1)
        message = f"LLVM knows no x86-64 CPU called '{mcpu}'"
        raise UsageError(message, f"did you mean '{near[0]}'?" if near else None)
    target = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLE, "mcpu": mcpu})
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))
