"""TVM's runtime without its compiler: what it takes to run a package.

`import tvm` loads the compiler with LLVM: 150 MB of memory and 0.6 s that no inference needs. The
runtime is a library of 3 MB beside it, which the compiler shares where both are used, and one of
1.3 MB with what kernels call by name when they run: sorting and top-k.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

import tvm_ffi

_CPU = 1  # DLPack's kDLCPU
_POOLED = 2  # memory::AllocatorType::kPooled

Tensor = tvm_ffi.core.Tensor


def load_runtime() -> None:
    """Makes TVM's runtime known to this process, once."""
    if "tvm" in sys.modules or _is_loaded():
        return
    spec = importlib.util.find_spec("tvm")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        library = Path(folder) / "lib" / "libtvm_runtime.so"
        if library.is_file():
            # Global: the compiler, should it be imported later, looks its symbols up there.
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            extra = library.with_name("libtvm_runtime_extra.so")
            if extra.is_file():
                ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)
            return
    _load_all()


def virtual_machine(library: Path) -> "VirtualMachine":
    """Loads what `export_library` wrote, ready to run on the CPU.

    Raises:
        RuntimeError: what the system's loader says.
    """
    load_runtime()
    module = tvm_ffi.load_module(str(library.resolve()))
    try:
        return VirtualMachine(module)
    except (AttributeError, RuntimeError, ValueError):
        if "tvm" in sys.modules:
            raise
    # It calls a function that TVM's Python sources register.
    _load_all()
    return VirtualMachine(module)


class VirtualMachine:
    """An instance of a library's virtual machine, with its own stack, memory and instrument."""

    def __init__(self, module: Any) -> None:
        self.library = module
        self._machine = module["vm_load_executable"]()
        self._machine["vm_initialization"](_CPU, 0, _POOLED)

    def __getitem__(self, name: str) -> Any:
        return self._machine[name]

    def another(self) -> "VirtualMachine":
        """One more instance of the same library."""
        return VirtualMachine(self.library)


def empty(shape: tuple[int, ...], dtype: str) -> Tensor:
    """An uninitialized tensor, aligned as kernels want it."""
    load_runtime()
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    return allocate(tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype), tvm_ffi.device("cpu"), None)


def view(tensor: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    """The same bytes as another type."""
    load_runtime()
    create = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return create(tensor, tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype), 0)


def _is_loaded() -> bool:
    return tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is not None


def _load_all() -> None:
    importlib.import_module("tvm.relax")
