"""Running a compiled library: nothing is copied that does not have to be."""

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm_ffi

from tvmopt.compiler.archive import ALIGNMENT
from tvmopt.compiler.manifest import Weight
from tvmopt.compiler.runtime import Tensor, VirtualMachine, empty, view, virtual_machine
from tvmopt.compiler.threads import kernel_threads
from tvmopt.errors import InputError, PackageError
from tvmopt.model import TensorSpec

Array = npt.NDArray[Any]
_SMALL_BYTES = 4096

Instrument = Callable[..., None]
"""Is called as `(function, name, is_before, result, *arguments)` around each call of the VM."""


class Executor:
    """One compiled model, ready to run. Threads that share it take turns."""

    def __init__(
        self,
        library: Path,
        weights: memoryview,
        table: Sequence[Weight],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        """Loads the library; the file may be removed afterwards.

        Args:
            library: what `export_library` wrote.
            weights: all weights, in writable memory aligned to 64 bytes; used where they lie.
            table: where in `weights` each one lies, in the order of `main`'s tuple.
            inputs: the model's inputs.
            outputs: the model's outputs.

        Raises:
            PackageError: the system does not load the library.
        """
        self._machine = _load(library)
        # One object for all weights: made once, not converted at each run.
        tensors = weight_tensors(weights, table)
        self._weights = (tvm_ffi.convert(tensors),) if tensors else ()
        self._weight_bytes = np.frombuffer(weights, np.uint8)
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._main = self._machine["main"]
        # The VM has one stack, and inputs are copied to the same place at each run.
        self._lock = threading.Lock()
        self._staged: dict[str, tuple[Tensor, Array]] = {}

    def run(self, inputs: Mapping[str, Array], threads: int) -> dict[str, Array]:
        """Runs the model once.

        An input that is contiguous and 64-byte aligned is read where it lies, others are copied
        once. Outputs are views of what the kernels wrote.

        Raises:
            InputError: a missing, unknown or unfitting input.
        """
        with self._lock:
            arguments = self.stage(inputs)
            with kernel_threads(threads):
                result = self._main(*arguments, *self._weights)
            return self._named(result, inputs)

    def bind(self, inputs: Mapping[str, Array], threads: int) -> Callable[[], None]:
        """A function that runs the model on fixed inputs, for one thread that measures."""
        arguments = (*self.stage(inputs), *self._weights)
        main = self._main

        def run() -> None:
            with kernel_threads(threads):
                main(*arguments)

        return run

    def run_lent(self, inputs: Mapping[str, Array], threads: int) -> list[Array]:
        """Runs the model once; the outputs, in order, are only lent until the next run.

        Nothing is copied: an output may be a weight or an input. They must not be written to.

        Raises:
            InputError: a missing, unknown or unfitting input.
        """
        with self._lock:
            with kernel_threads(threads):
                result = self._main(*self.stage(inputs), *self._weights)
            return [as_numpy(one) for one in ([result] if isinstance(result, Tensor) else result)]

    def run_instrumented(
        self, inputs: Mapping[str, Array], threads: int, instrument: Instrument, runs: int = 1
    ) -> None:
        """Runs the model with `instrument` around each call."""
        # A VM of its own: an instrument cannot be taken off again.
        machine = self._machine.another()
        machine["set_instrument"](tvm_ffi.convert(instrument))
        arguments = (*self.stage(inputs), *self._weights)
        with kernel_threads(threads):
            for _ in range(runs):
                machine["main"](*arguments)

    def stage(self, inputs: Mapping[str, Array]) -> list[Tensor]:
        """The inputs as tensors that kernels may read, in the model's order."""
        check_inputs(inputs, self._inputs)
        return [self._tensor(spec, inputs[spec.name]) for spec in self._inputs]

    def _named(self, result: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [result] if isinstance(result, Tensor) else list(result)
        # An output may be an input, a weight, or a view of one, or be given out twice: such memory
        # is not the caller's to keep. Small ones may be constants of the VM.
        borrowed = [view for _, view in self._staged.values()]
        borrowed += [self._weight_bytes, *inputs.values()]
        arrays: dict[str, Array] = {}
        for spec, tensor in zip(self._outputs, tensors, strict=True):
            array = as_numpy(tensor)
            is_shared = any(np.may_share_memory(array, other) for other in borrowed)
            if is_shared or array.nbytes <= _SMALL_BYTES:
                array = array.copy()
            borrowed.append(array)
            arrays[spec.name] = array
        return arrays

    def _tensor(self, spec: TensorSpec, array: Array) -> Tensor:
        flags = array.flags
        is_plain = flags.c_contiguous and flags.writeable and array.dtype.isnative
        if is_plain and array.size and array.ctypes.data % ALIGNMENT == 0:
            return as_tensor(array)
        if spec.name not in self._staged:
            tensor = empty(spec.shape, spec.dtype)
            self._staged[spec.name] = tensor, as_numpy(tensor)
        tensor, view = self._staged[spec.name]
        np.copyto(view, array)
        return tensor


def _load(library: Path) -> VirtualMachine:
    try:
        return virtual_machine(library)
    except RuntimeError as error:  # what dlopen says
        reason = (str(error).strip().splitlines() or ["no message"])[-1]
        hint = None
        if os.statvfs(library).f_flag & os.ST_NOEXEC:
            hint = f"'{library.parent.parent}' is mounted noexec: set TMPDIR to another directory"
        raise PackageError(f"the compiled library cannot be loaded: {reason}", hint) from None


def check_inputs(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> None:
    """Checks names, shapes and dtypes; nothing is converted in silence.

    Raises:
        InputError: names the input, what it should be and what it is.
    """
    wanted = {spec.name: spec for spec in specs}
    missing = [name for name in wanted if name not in inputs]
    for name in inputs:
        if name not in wanted:
            near = get_close_matches(name, missing or wanted, n=1)
            message = (
                f"the model has no input '{name}'; its inputs are {', '.join(wanted) or 'none'}"
            )
            raise InputError(message, f"did you mean '{near[0]}'?" if near else None)
    if missing:
        spec = wanted[missing[0]]
        raise InputError(f"input '{spec.name}' is missing", f"give it as {_describe(spec)}")
    for name, spec in wanted.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
            message = f"input '{name}' is a {type(array).__name__}, not a NumPy array"
            raise InputError(message, f"give it as {_describe(spec)}")
        if array.dtype.name != spec.dtype:
            message = f"input '{name}' has dtype {array.dtype.name}, expected {spec.dtype}"
            raise InputError(message, f"convert it: array.astype('{spec.dtype}')")
        if array.shape != spec.shape:
            found, expected = list(array.shape), list(spec.shape)
            hint = "the compiled shape is fixed; compile again with --input-shapes for another"
            if array.size == np.prod(spec.shape, dtype=int):
                hint = f"it has as many elements: array.reshape({expected})"
            raise InputError(f"input '{name}' has shape {found}, expected {expected}", hint)


def as_numpy(tensor: Tensor) -> Array:
    """A tensor's memory as an array, without a copy."""
    shape = tuple(int(extent) for extent in tensor.shape)
    dtype = np.dtype(str(tensor.dtype))
    if 0 in shape:
        return np.empty(shape, dtype)
    if not _is_exotic(dtype):
        return np.from_dlpack(tensor)
    size = math.prod(shape) * dtype.itemsize
    return np.from_dlpack(view(tensor, (size,), "uint8")).view(dtype).reshape(shape)


def as_tensor(array: Array) -> Tensor:
    """An aligned, contiguous, writable array's memory as a tensor, without a copy."""
    if not _is_exotic(array.dtype):
        return tvm_ffi.from_dlpack(array)
    raw = tvm_ffi.from_dlpack(array.reshape(-1).view(np.uint8))
    return view(raw, array.shape, array.dtype.name)


def weight_tensors(buffer: memoryview, table: Sequence[Weight]) -> list[Tensor]:
    """Weights as tensors that lie in `buffer`."""
    tensors: list[Tensor] = []
    for weight in table:
        dtype = np.dtype(weight.dtype)
        count = int(np.prod(weight.shape, dtype=int))
        array = np.frombuffer(buffer, dtype, count, weight.offset).reshape(weight.shape)
        tensors.append(as_tensor(array) if count else empty(weight.shape, weight.dtype))
    return tensors


def _is_exotic(dtype: np.dtype[Any]) -> bool:
    # ml_dtypes' types are void to NumPy, which does not export them through DLPack.
    return dtype.kind == "V"


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"
