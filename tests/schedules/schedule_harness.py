"""Compiles Relax expressions the way tvmopt does, for the lanes that this machine can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext, CompileRequest, Layer, ModelSource, Pass
from tvmopt.compiler.build import build
from tvmopt_plugins.fuse import Fuse
from tvmopt_plugins.lower import Legalize
from tvmopt_plugins.lower import Schedule as SchedulePass
from tvmopt_plugins.target_x86 import X86

Emit = Callable[[relax.BlockBuilder, Sequence[relax.Var]], relax.Expr]


@dataclass
class Compiled:
    """A compiled expression: what it computes, and how it was scheduled."""

    run: Callable[..., list[np.ndarray]]
    assembly: str
    rules: list[str]
    fallbacks: list[str]
    kernels: int
    executable: Any
    weights: Any
    layers: list[Layer]


def compile_relax(
    device: str,
    inputs: Sequence[tuple[Sequence[int], str]],
    emit: Emit,
    first: Sequence[Pass] = (),
    cores: int | None = None,
) -> Compiled:
    """Compiles `emit(builder, inputs)` for a device of the x86 backend.

    `first` are passes to run before operators are lowered.
    """
    backend = X86(device, {} if cores is None else {"num-cores": str(cores)})
    ctx = CompileContext(CompileRequest(ModelSource(Path("m.onnx")), backend), backend.target())
    bb = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with bb.function("main", params):
        with bb.dataflow():
            result = bb.emit_output(emit(bb, params))
        bb.emit_func_output(result)
    mod = bb.finalize()
    with ctx.target:
        for one in (*first, Legalize(), Fuse(), SchedulePass()):
            mod = one.run(mod, ctx)
    built = build(mod, ctx.target)
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in built.weights]
    bundle = [tuple(weights)] if weights else []

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        out = machine["main"](*[tvm.runtime.tensor(a) for a in arrays], *bundle)
        parts = list(out) if not hasattr(out, "numpy") else [out]
        return [part.numpy() for part in parts]

    return Compiled(
        run,
        _assembly(built.executable),
        [layer.schedule for layer in ctx.report.layers],
        [layer.kernel for layer in ctx.report.layers if layer.fallback],
        len(ctx.report.layers),
        machine,
        bundle,
        list(ctx.report.layers),
    )


def _assembly(executable: Any) -> str:
    found: list[str] = []

    def visit(module: Any) -> None:
        if module.kind == "llvm":
            found.append(module.inspect_source("asm"))
        for one in module.imports:
            visit(one)

    visit(executable.mod)
    return "\n".join(found)
