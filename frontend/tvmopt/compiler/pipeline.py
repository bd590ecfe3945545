"""One compilation, top to bottom: import, passes, build, verify, package."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import tvm

from tvmopt.compiler.build import build
from tvmopt.compiler.calibrate import DataCalibration
from tvmopt.compiler.draft import PackageDraft
from tvmopt.compiler.dump import dump_module
from tvmopt.compiler.executor import Array
from tvmopt.compiler.importer import ImportedModel, import_model
from tvmopt.compiler.output import check_output
from tvmopt.compiler.package import Package
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.verify import verify_draft
from tvmopt.compiler.verify_quantized import verify_quantized
from tvmopt.model import CompileRequest, TensorSpec
from tvmopt.passes import CompileContext, Pass
from tvmopt.plugins import Plugins
from tvmopt.report import PassRecord, Remark

Progress = Callable[[str], None]
"""Is told the name of each step as it begins."""

InputsOf = Callable[[Sequence[TensorSpec]], Mapping[str, Array]]
"""Makes or reads inputs for a model with these inputs."""


def compile_model(
    request: CompileRequest,
    plugins: Plugins,
    output: Path | None = None,
    *,
    verify: bool = True,
    inputs: InputsOf | None = None,
    progress: Progress = lambda _step: None,
) -> Package:
    """Compiles `request.source` and writes the package to `output`.

    Nothing is written to `output` before the package is complete and verified, with `inputs` where
    they are given and else with random ones.

    Raises:
        TvmoptError: see `tvmopt.compile`.
    """
    if output is not None:
        check_output(output)
    ctx = CompileContext(request, request.backend.target())
    report = ctx.report
    passes = line_up(request, plugins, ctx)

    imported = import_source(ctx, plugins, progress)
    mod = run_passes(passes, imported.module, ctx, plugins, progress)

    progress("build")
    with _clock(ctx, "build"):
        built = build(mod, ctx.target)
    with PackageDraft(built, imported, request, report, output) as draft:
        if verify:
            progress("verify")
            with _clock(ctx, "verify"):
                given = inputs(imported.inputs) if inputs else None
                if ctx.simulated is None:
                    verify_draft(draft, imported, report, given)
                else:
                    _verify_quantized(draft, imported, ctx, plugins, given)
        progress("package")
        package = draft.publish()
    plugins.compile_finished(request, report)
    return package


def import_source(ctx: CompileContext, plugins: Plugins, progress: Progress) -> ImportedModel:
    """Imports the model, and opens the calibration data that belong to it."""
    progress("import")
    request = ctx.request
    with _clock(ctx, "import"):
        imported = import_model(request.source)
    ctx.report.remarks.extend(imported.remarks)
    if request.calibration is not None:
        ctx.calibration = DataCalibration(
            request.calibration, request, plugins, imported.inputs, ctx.report
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
) -> tvm.IRModule:
    """Runs passes one after the other; the IR after each is written where the user wants it."""
    dump_dir = ctx.request.dump_dir
    with _clock(ctx, "passes"):
        for index, one in enumerate(passes, start=1):
            progress(one.name)
            mod = run_pass(one, mod, ctx, plugins.origins.get(type(one), ""))
            if dump_dir is not None:
                dump_module(dump_dir, index, one.name, mod)
    return mod


def _verify_quantized(
    draft: PackageDraft,
    imported: ImportedModel,
    ctx: CompileContext,
    plugins: Plugins,
    given: Mapping[str, Array] | None,
) -> None:
    """Verifies on what the user gave, else on calibration data: ranges are made for such."""
    assert ctx.simulated is not None
    batches: Iterable[Mapping[str, Array]] = [given] if given is not None else []
    if given is None and isinstance(ctx.calibration, DataCalibration):
        batches = ctx.calibration.batches
    simulated = simulation(ctx.simulated, ctx.request, plugins, imported.inputs, imported.outputs)
    verify_quantized(draft, imported, simulated, ctx.report, batches)


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
def _clock(ctx: CompileContext, phase: str) -> Generator[None]:
    start = time.perf_counter()
    yield
    ctx.report.seconds[phase] = time.perf_counter() - start
