"""One compilation, top to bottom: import, passes, build, verify, package."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tvmopt.compiler.attempts import Attempt, Attempts
from tvmopt.compiler.calibrate import DataCalibration
from tvmopt.compiler.executor import Array
from tvmopt.compiler.importer import ImportedModel
from tvmopt.compiler.output import check_output
from tvmopt.compiler.package import Package
from tvmopt.compiler.quantized_search import search
from tvmopt.compiler.simulate import simulation
from tvmopt.compiler.stages import Progress, clock
from tvmopt.compiler.verify import verify_draft
from tvmopt.compiler.verify_quantized import verify_quantized
from tvmopt.model import CompileRequest, TensorSpec
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
) -> Package:
    """Compiles `request.source` and writes the package to `output`.

    Nothing is written to `output` before the package is complete and verified, with `inputs` where
    they are given and else with random ones.

    Raises:
        TvmoptError: see `tvmopt.compile`.
    """
    if output is not None:
        check_output(output)
    with Attempts(request, plugins, output, progress) as attempts:
        given = inputs(attempts.imported.inputs) if inputs else None
        chosen = search(attempts, attempts.finish(), given)
        if verify:
            progress("verify")
            with clock(chosen.ctx, "verify"):
                _verify(chosen, attempts.imported, plugins, given)
        progress("package")
        package = chosen.draft.publish()
    plugins.compile_finished(request, chosen.ctx.report)
    return package


def _verify(
    attempt: Attempt,
    imported: ImportedModel,
    plugins: Plugins,
    given: Mapping[str, Array] | None,
) -> None:
    """Verifies an int8 model on what the user gave, else on calibration data: ranges fit them."""
    ctx, draft = attempt.ctx, attempt.draft
    if ctx.simulated is None:
        verify_draft(draft, imported, ctx.report, given)
        return
    batches: Iterable[Mapping[str, Array]] = [given] if given is not None else []
    if given is None and isinstance(ctx.calibration, DataCalibration):
        batches = ctx.calibration.batches
    simulated = simulation(ctx.simulated, ctx.request, plugins, imported.inputs, imported.outputs)
    verify_quantized(draft, imported, simulated, ctx.report, batches)
