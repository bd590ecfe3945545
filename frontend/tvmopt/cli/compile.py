"""`tvmopt compile`: an ONNX model in, a verified package out."""

import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmopt.cli.compiled import compiled_json, print_compiled
from tvmopt.cli.console import print_json
from tvmopt.cli.html_report import write_package_report
from tvmopt.cli.options import (
    json_option,
    parse_dims,
    parse_input_shapes,
    parse_passes,
    shape_options,
    threads_option,
    verbose_option,
)
from tvmopt.cli.progress import Steps
from tvmopt.cli.quantization import (
    check_report,
    check_search,
    parse_quantization,
    quantize_options,
    report_option,
)
from tvmopt.cli.session import Session
from tvmopt.errors import UsageError
from tvmopt.metrics import AccuracyGate
from tvmopt.model import CompileRequest, ModelSource
from tvmopt.modes import MODES
from tvmopt.passes import Stage
from tvmopt.recipe import Quantization, Recipe, read_recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from tvmopt.plugins import Plugins

DEFAULT_TARGET = "x86"
_THREADS = "TVM_NUM_THREADS"
_MIXED = "mixed-precision"
_PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class _Plan:
    request: CompileRequest
    output: Path
    verify: bool


@click.command("compile", short_help="Compiles an ONNX model into a package.")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--target", metavar="T", help="A name of `tvmopt targets`.  [default: x86]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The package to write.  [default: the model's name with .tvmpkg, in this directory]",
)
@shape_options
@click.option(
    "--recipe",
    "recipe_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A YAML file that says what to compile and how; options here come before it.",
)
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Sets options of a pass; also adds a pass that does not run by default.",
)
@click.option(
    "--precision",
    type=click.Choice(list(_PRECISIONS)),
    help="Computes products in a 16-bit type: short for --pass mixed-precision:dtype=...",
)
@quantize_options
@click.option(
    "--disable-pass", "disabled", multiple=True, metavar="NAME", help="Leaves a pass out."
)
@click.option(
    "--dump-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Writes the IR after each pass there.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Compare with the original model before the package is written.  [default: verify]",
)
@click.option(
    "--inputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Inputs to verify with, as for `tvmopt run`.  [default: random]",
)
@report_option
@threads_option
@json_option
@verbose_option
@click.pass_obj
def compile_command(
    session: Session,
    model: Path | None,
    *,
    inputs: tuple[str, ...],
    html: Path | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compiles MODEL, an ONNX file, and verifies the result against it.

    The package is written when all is done and verified, never in part.
    """
    plugins = session.plugins
    plan = _plan(session, model, **options)
    is_quantized = bool(plan.request.options.keys() & {name for name, _ in MODES.values()})
    if html is not None and not is_quantized:
        raise UsageError("--report is for --quantize", "add --quantize int8")
    check_report(html)
    steps = _steps(plan, plugins, is_quantized=is_quantized)
    start = time.perf_counter()
    before = _stamp(plan.output)
    try:
        from tvmopt.cli.tensors import read_inputs
        from tvmopt.compiler.pipeline import compile_model

        with _threads(threads), Steps(steps, session.interrupt.check) as progress:
            package = compile_model(
                plan.request,
                plugins,
                plan.output,
                verify=plan.verify,
                inputs=partial(read_inputs, inputs) if inputs else None,
                progress=progress,
                detail=progress.detail,
            )
        session.interrupt.check()
    except (Exception, KeyboardInterrupt) as error:
        if not session.interrupt.happened and not isinstance(error, KeyboardInterrupt):
            if html is not None and _stamp(plan.output) != before:  # it missed the accuracy gate
                write_package_report(html, plan.output)
            raise
        # Late in the compilation the package may be complete, and then it stays.
        state = "was not" if _stamp(plan.output) == before else "is complete and was"
        raise KeyboardInterrupt(f"interrupted: '{plan.output}' {state} written") from None
    seconds = time.perf_counter() - start
    manifest = package.manifest
    if html is not None:
        write_package_report(html, plan.output)
    if as_json:
        print_json(compiled_json(manifest, plan.output, seconds))
        return
    print_compiled(manifest, plan.output, seconds, verbose=session.verbose)


def _steps(plan: _Plan, plugins: "Plugins", *, is_quantized: bool) -> list[str]:
    """What is sure to come; how often the search builds again is not."""
    steps = ["import", *pass_names(plugins, plan.request), "build"]
    if is_quantized:
        judged = ["accuracy"] if plan.request.gate is not None else []
        judged += ["measure"] if plan.request.measure else []
        if judged:
            judged.insert(1, "build again (2)")  # in float32, to compare with
        steps += judged
    steps += ["verify"] if plan.verify else []
    steps += ["sensitivity"] if plan.verify and is_quantized else []
    return [*steps, "package"]


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when another file takes this place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _threads(threads: int | None) -> "Generator[None]":
    """Lets kernels run on this many threads by default, which is what verification does."""
    from tvmopt.compiler.threads import check_threads

    if threads is None:
        yield
        return
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(check_threads(threads))
    try:
        yield
    finally:
        del os.environ[_THREADS]
        if before is not None:
            os.environ[_THREADS] = before


def pass_names(
    plugins: "Plugins", request: CompileRequest, last: Stage = Stage.SCHEDULE
) -> list[str]:
    """The passes that will run up to a stage, those that plugins add among them."""
    passes = plugins.line_up(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compilation itself says which plugin fails
        plugins.modify_passes(passes, request)
    return [one.name for one in passes if one.stage <= last]


def _plan(
    session: Session,
    model: Path | None,
    *,
    target: str | None,
    output: Path | None,
    input_shapes: tuple[str, ...],
    dims: tuple[str, ...],
    recipe_path: Path | None,
    passes: tuple[str, ...],
    precision: str | None,
    disabled: tuple[str, ...],
    dump_dir: Path | None,
    verify: bool | None,
    **quantization: Any,
) -> _Plan:
    recipe = read_recipe(recipe_path, session.plugins) if recipe_path else Recipe()
    model = model or recipe.model
    if model is None:
        hint = "`tvmopt compile model.onnx`, or --recipe with a file that has the key 'model'"
        raise UsageError("no model is given", hint)
    written = {name: dict(options) for name, options in parse_passes(passes).items()}
    dtype = _PRECISIONS[precision] if precision is not None else None
    if dtype is not None:
        asked = written.setdefault(_MIXED, {}).setdefault("dtype", dtype)
        if asked != dtype:
            raise UsageError(f"--precision {precision} is {dtype}, but --pass asks for {asked}")
    said = Quantization(**quantization).over(recipe.quantization)
    if said.quantize is not None and dtype is not None:
        message = f"--quantize {said.quantize} and --precision {precision} exclude each other"
        raise UsageError(message)
    source = parse_quantization(
        written,
        said.quantize,
        said.calibration,
        said.calibrator,
        said.calibration_samples,
        said.exclude,
    )
    gate = AccuracyGate.of(said.max_drop, said.metric, said.dataset)
    check_search(said.quantize, gate, said.if_slower, measure=said.measure)
    both = sorted(written.keys() & set(disabled))
    if both:
        raise UsageError(f"pass '{both[0]}' is both asked for and disabled")
    request = CompileRequest(
        ModelSource(
            model,
            {**recipe.input_shapes, **parse_input_shapes(input_shapes)},
            {**recipe.dims, **parse_dims(dims)},
        ),
        session.plugins.backend(target or recipe.target or DEFAULT_TARGET),
        {
            name: {**recipe.passes.get(name, {}), **written.get(name, {})}
            for name in dict.fromkeys([*recipe.passes, *written])
        },
        (recipe.disabled - written.keys()) | frozenset(disabled),
        dump_dir,
        source,
        said.measure is not False,
        said.if_slower or "keep",
        gate,
    )
    where = output or recipe.output or Path(f"{model.stem}.tvmpkg")
    _check_output(where, model)
    wanted = verify if verify is not None else recipe.verify
    return _Plan(request, where, wanted is not False)


def _check_output(output: Path, model: Path) -> None:
    """What `tvmopt.compiler.output.check_output` cannot know."""
    if output.exists() and model.exists() and output.samefile(model):
        message = f"the output '{output}' is the model itself"
        raise UsageError(message, "name another file with -o")
