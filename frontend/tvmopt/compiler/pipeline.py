"""One compilation, top to bottom: import, passes, build, verify, package."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tvmopt.compiler.accuracy_check import raise_if_missed
from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.calibrate import DataCalibration, Detail
from tvmopt.compiler.executor import Array
from tvmopt.compiler.importer import ImportedModel
from tvmopt.compiler.output import check_output
from tvmopt.compiler.package import Package
from tvmopt.compiler.quantized_search import search
from tvmopt.compiler.sample_inputs import sample_inputs
from tvmopt.compiler.sensitivity import SwitchedModel, measure
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.stages import Progress, clock
from tvmopt.compiler.threads import default_threads
from tvmopt.compiler.verify import verify_draft
from tvmopt.compiler.verify_quantized import Simulate, verify_quantized
from tvmopt.model import CompileRequest, TensorSpec
from tvmopt.passes import CompileContext
from tvmopt.plugins import Plugins

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
    detail: Detail = lambda _text: None,
) -> Package:
    """Compiles `request.source` and writes the package to `output`.

    Nothing is written to `output` before the package is complete and verified, with `inputs` where
    they are given and else with random ones. Where an accuracy gate is missed, it is written all
    the same, and then an error is raised.

    Raises:
        TvmoptError: see `tvmopt.compile`.
    """
    if output is not None:
        check_output(output)
    with Attempts(request, plugins, output, progress, detail) as attempts:
        given = inputs(attempts.imported.inputs) if inputs else None
        chosen = search(attempts, given)
        if verify:
            progress("verify")
            _verify(chosen, attempts, given)
        progress("package")
        package = chosen.draft.publish()
    plugins.compile_finished(request, chosen.ctx.report)
    raise_if_missed(chosen.ctx.report.accuracy, output)
    return package


def _verify(
    attempt: Attempt,
    attempts: Attempts,
    given: Mapping[str, Array] | None,
) -> None:
    """Verifies an int8 model on what the user gave, else on calibration data: ranges fit them."""
    ctx, draft = attempt.ctx, attempt.draft
    imported, plugins = attempts.imported, attempts.plugins
    if ctx.simulated is None:
        with clock(ctx, "verify"):
            verify_draft(draft, imported, ctx.report, given)
        return
    batches: Iterable[Mapping[str, Array]]
    if given is None and isinstance(ctx.calibration, DataCalibration):
        batches = ctx.calibration.batches
    else:
        batches = [given or sample_inputs(imported.inputs, imported.input_ranges)]
    with clock(ctx, "verify"):
        switched = None if ctx.unquantized is None else SwitchedModel.of(ctx, plugins, imported)
        simulate = switched.simulate if switched else _simulation(ctx, plugins, imported)
        verify_quantized(draft, imported, simulate, ctx.report, batches)
    if switched is not None:
        attempts.progress("sensitivity")
        with clock(ctx, "sensitivity"):
            found = measure(switched, batches, progress=attempts.runs)
            ctx.report.quantization[:] = found.fill(ctx.report.quantization)


def _simulation(ctx: CompileContext, plugins: Plugins, imported: ImportedModel) -> Simulate:
    assert ctx.simulated is not None
    executor = simulation(ctx.simulated, ctx.request, plugins, imported.inputs, imported.outputs)
    return partial(executor.run, threads=default_threads())
