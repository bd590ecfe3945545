"""The steps that lead from a model to a lowered graph: import, the line-up of passes, each pass."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import tvm

from tvmopt.compiler.calibrate import DataCalibration, Detail
from tvmopt.compiler.dump import dump_module
from tvmopt.compiler.importer import ImportedModel, import_model
from tvmopt.model import CompileRequest
from tvmopt.passes import CompileContext, Pass
from tvmopt.plugins import Plugins
from tvmopt.report import PassRecord, Remark

Progress = Callable[[str], None]
"""Is told the name of each step as it begins."""


def import_source(
    ctx: CompileContext,
    plugins: Plugins,
    progress: Progress,
    detail: Detail = lambda _text: None,
) -> ImportedModel:
    """Imports the model, and opens the calibration data that belong to it."""
    progress("import")
    request = ctx.request
    with clock(ctx, "import"):
        imported = import_model(request.source)
    ctx.report.remarks.extend(imported.remarks)
    if request.calibration is not None:
        ctx.calibration = DataCalibration(
            request.calibration, request, plugins, imported.inputs, ctx.report, detail
        )
    if request.dump_dir is not None:
        dump_module(request.dump_dir, 0, "import", imported.module)
    return imported


def run_passes(
    passes: Sequence[Pass],
    mod: tvm.IRModule,
    ctx: CompileContext,
    plugins: Plugins,
    progress: Progress,
    *,
    already: int = 0,
) -> tvm.IRModule:
    """Runs passes one after the other; the IR after each is written where the user wants it.

    `already` counts the passes that ran before these.
    """
    dump_dir = ctx.request.dump_dir
    with clock(ctx, "passes"):
        for index, one in enumerate(passes, start=already + 1):
            progress(one.name)
            mod = run_pass(one, mod, ctx, plugins.origins.get(type(one), ""))
            if dump_dir is not None:
                dump_module(dump_dir, index, one.name, mod)
    return mod


def line_up(request: CompileRequest, plugins: Plugins, ctx: CompileContext) -> list[Pass]:
    """The passes of this compilation in order, with what plugins changed in the report."""
    passes = plugins.line_up(request)
    for plugin, change in plugins.modify_passes(passes, request):
        ctx.report.remarks.append(Remark("analysis", f"plugin {plugin}", "", change))
    return passes


def run_pass(one: Pass, mod: tvm.IRModule, ctx: CompileContext, origin: str) -> tvm.IRModule:
    """Runs one pass and records how long it took and whether it changed anything.

    Raises:
        Exception: what the pass raised, with a note that says whose pass it is.
    """
    start = time.perf_counter()
    try:
        with ctx.target:
            after = _run(one, mod, ctx)
    except Exception as error:
        error.add_note(f"in the pass '{one.name}' of the plugin '{origin}'")
        raise
    seconds = time.perf_counter() - start
    changed = not after.same_as(mod)
    ctx.report.passes.append(PassRecord(one.name, one.stage.name, origin, seconds, changed))
    return after


def _run(one: Pass, mod: tvm.IRModule, ctx: CompileContext) -> tvm.IRModule:
    try:
        after = one.run(mod, ctx)
    except SystemExit as error:  # a plugin does not decide when the program ends
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    if not isinstance(after, tvm.IRModule):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"it returned {type(after).__name__}, not an IRModule")
    return after


@contextmanager
def clock(ctx: CompileContext, phase: str) -> Generator[None]:
    """Adds the seconds that the block takes to a phase of the report."""
    start = time.perf_counter()
    yield
    spent = ctx.report.seconds.get(phase, 0.0)
    ctx.report.seconds[phase] = spent + time.perf_counter() - start
