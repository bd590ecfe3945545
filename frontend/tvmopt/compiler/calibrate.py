"""Calibration: a float module, compiled, runs sample after sample and shows its tensors."""

import mmap
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt.backend import Backend
from tvmopt.calibration import Calibration, CalibrationSource, Calibrator
from tvmopt.compiler.archive import ALIGNMENT, LIBRARY
from tvmopt.compiler.build import BuiltModel, build
from tvmopt.compiler.calibration_data import Batches
from tvmopt.compiler.draft import target_of
from tvmopt.compiler.executor import Array, Executor
from tvmopt.compiler.host import runs_here
from tvmopt.compiler.linking import export_library
from tvmopt.compiler.manifest import Weight
from tvmopt.compiler.scratch import scratch_folder
from tvmopt.compiler.seen import Seen
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import TvmoptError
from tvmopt.model import CompileRequest, TensorSpec
from tvmopt.passes import CompileContext, Stage
from tvmopt.plugins import Plugins
from tvmopt.report import Remark, Report
from tvmopt.rewriting import dtype_of, shape_of

if TYPE_CHECKING:
    from tvmopt.calibration import Observe


Detail = Callable[[str], None]
"""Is told how far the step is that runs."""


@dataclass
class DataCalibration(Calibration):
    """Calibration on the data that the user named.

    Attributes:
        source: the data and the calibrator.
        request: of the compilation.
        plugins: for passes, data sets and calibrators.
        inputs: the model's inputs, in the order of `main`'s parameters.
        report: where remarks on the data go.
        detail: is told how far a run over the data is.
    """

    source: CalibrationSource
    request: CompileRequest
    plugins: Plugins
    inputs: Sequence[TensorSpec]
    report: Report
    detail: Detail = lambda _text: None
    batches: Batches = field(init=False)
    _seen: list[Seen] = field(default_factory=list[Seen], init=False)

    def __post_init__(self) -> None:
        if self.source.calibrator:
            self.plugins.calibrator(self.source.calibrator)  # what is wrong shall show now
        self.batches = Batches.open(self.source, self.plugins, self.inputs)

    def new_calibrator(self, default: str) -> Calibrator:
        return self.plugins.calibrator(self.source.calibrator or default)()

    def calibrate(
        self, mod: tvm.IRModule, variables: Sequence[relax.Var], default: str
    ) -> tuple[dict[relax.Var, Calibrator], Mapping[relax.Var, str]]:
        seen = next((one for one in self._seen if one.is_of(mod, default)), None)
        if seen is None:
            seen = Seen(mod, default)
            self._seen.append(seen)
        missing = seen.missing(mod, variables)
        if missing:
            seen.add(mod, *super().calibrate(mod, missing, default))
        self._remark()
        return seen.of(mod, variables)

    def observe(
        self, mod: tvm.IRModule, observers: "Mapping[relax.Var, Observe]", batches: int = 0
    ) -> Mapping[relax.Var, str]:
        params: list[relax.Var] = list(mod["main"].params)
        computed = [var for var in observers if var not in params]
        runner = self._compile(mod, computed) if computed else None
        threads = default_threads()
        given_up: dict[relax.Var, str] = {}

        def show(var: relax.Var, array: Array, sample: int) -> None:
            if var in given_up:
                return
            try:
                observers[var](array)
            except ValueError as error:
                given_up[var] = f"{error} in batch {sample} of the calibration data"

        with ThreadPoolExecutor(threads) as pool:
            for sample, batch in enumerate(islice(self.batches, batches or None)):
                given = zip(params, (batch[spec.name] for spec in self.inputs), strict=True)
                arrays = runner.run_lent(batch, threads) if runner else []
                seen = [pair for pair in given if pair[0] in observers]
                seen += zip(computed, arrays, strict=True)
                # The results are read here, so that what an observer raises is not lost.
                list(pool.map(lambda pair, sample=sample: show(*pair, sample), seen))
                self.detail(f"batch {sample + 1} of the calibration data")
        self._remark()
        return given_up

    def _remark(self) -> None:
        for message in self.batches.remarks():
            remark = Remark("analysis", "calibrate", "", message)
            if remark not in self.report.remarks:
                self.report.remarks.append(remark)

    def _compile(self, mod: tvm.IRModule, variables: Sequence[relax.Var]) -> Executor:
        """The module with these variables as its outputs, compiled for this machine."""
        mod = showing(mod, variables)
        outputs = [
            TensorSpec(str(index), shape_of(var) or (), dtype_of(var))
            for index, var in enumerate(variables)
        ]
        return compile_floats(mod, self.request, self.plugins, self.inputs, outputs)


def running_backend(wanted: Backend, plugins: Plugins) -> Backend:
    """The backend if this machine runs its code, else the first one whose code it runs.

    Raises:
        TvmoptError: there is none.
    """
    if runs_here(target_of(wanted)):
        return wanted
    for kind in plugins.backends.values():
        with suppress(Exception):  # a backend that fails here is none to run on
            backend = kind()
            if runs_here(target_of(backend)):
                return backend
    raise TvmoptError(
        f"calibration runs the model, and this machine runs no code for '{wanted.device}'",
        "calibrate on the device, or install a plugin with a backend for this machine",
    )


def compile_floats(
    mod: tvm.IRModule,
    request: CompileRequest,
    plugins: Plugins,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Executor:
    """Compiles a float module that has passed the stage QUANTIZE for this machine.

    Args:
        mod: with weights in floats.
        request: of the compilation that is under way; its options are for that one's passes alone.
        plugins: for the backend and the passes.
        inputs: of `main`.
        outputs: of `main`.

    Raises:
        TvmoptError: no backend makes code for this machine.
    """
    backend = running_backend(request.backend, plugins)
    plain = replace(request, backend=backend, options={}, dump_dir=None, calibration=None)
    return _executor(_lower(mod, plain, plugins), inputs, outputs)


def _lower(mod: tvm.IRModule, request: CompileRequest, plugins: Plugins) -> BuiltModel:
    passes = plugins.line_up(request)
    plugins.modify_passes(passes, request)
    ctx = CompileContext(request, request.backend.target())
    for one in passes:
        if one.stage > Stage.QUANTIZE:
            with ctx.target:
                mod = one.run(mod, ctx)
    return build(mod, ctx.target)


def showing(mod: tvm.IRModule, variables: Sequence[relax.Var]) -> tvm.IRModule:
    """The module with these variables of `main` as its outputs, and nothing that they do not need.

    Variables that a branch of an `If` binds cannot be shown.
    """
    func: Any = mod["main"]
    wanted = {var: relax.Var(f"{var.name}_shown", var.ty) for var in variables}
    blocks: list[relax.BindingBlock] = []
    for block in func.body.blocks:
        bound = [binding.var for binding in block.bindings if binding.var in wanted]
        copies = [relax.VarBinding(wanted[var], var) for var in bound]
        blocks.append(type(block)([*block.bindings, *copies]))
    # As a tuple also where it is one: `main` then returns the same kind whatever is asked for.
    result = relax.Tuple([wanted[var] for var in variables])
    bb = relax.BlockBuilder(mod)
    body = bb.normalize(relax.SeqExpr(blocks, result))
    shown = relax.Function(func.params, body, None, func.is_pure, func.attrs)
    after = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    after.update_func(mod.get_global_var("main"), shown)
    after = relax.transform.CanonicalizeBindings()(after)
    return relax.transform.DeadCodeElimination(["main"])(after)


def _executor(
    built: BuiltModel, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Executor:
    """Links a model and loads it, without a package."""
    table: list[Weight] = []
    offset = 0
    for array in built.weights:
        offset += -offset % ALIGNMENT
        table.append(Weight(array.dtype.name, array.shape, offset))
        offset += array.nbytes
    memory = mmap.mmap(-1, max(offset, 1))
    for weight, array in zip(table, built.weights, strict=True):
        raw = np.frombuffer(memory, np.uint8, array.nbytes, weight.offset)
        raw[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with tempfile.TemporaryDirectory(prefix="tvmopt-", dir=scratch_folder(None)) as folder:
        library = Path(folder) / LIBRARY
        export_library(built.executable, library)
        return Executor(library, memoryview(memory), table, inputs, outputs)
