"""The compiled model against the original: on the same inputs, output by output."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tvmopt.compiler.allowances import forgive, is_quantized, step_limits
from tvmopt.compiler.compare import compare, is_within
from tvmopt.compiler.departure import Departure, first_departure
from tvmopt.compiler.executor import Array, Executor, check_inputs
from tvmopt.compiler.manifest import OutputError, Verification
from tvmopt.compiler.reference import Reference, open_reference
from tvmopt.compiler.rounding import (
    FACTOR,
    LEAST,
    LEAST_SQNR_DB,
    MOST,
    POOR_SQNR_DB,
    noisiest,
    quality,
    rounding_limits,
)
from tvmopt.compiler.sample_inputs import sample_inputs
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import GateError, TvmoptError
from tvmopt.report import Remark, Report

if TYPE_CHECKING:
    from tvmopt.compiler.draft import PackageDraft
    from tvmopt.compiler.importer import ImportedModel

SEED = 0

_KEEP = "keep layers in float32 by --pass mixed-precision:keep=PATTERN"


def verify_draft(
    draft: "PackageDraft",
    imported: "ImportedModel",
    report: Report,
    inputs: Mapping[str, Array] | None = None,
) -> Verification | None:
    """Verifies a package before it is published; the figures go into its manifest.

    What was compiled for another machine cannot be run here: the report says so, and the result is
    None.

    Args:
        draft: what was compiled, as it will be shipped.
        imported: the original.
        report: for the layers.
        inputs: by default made from a fixed seed.

    Raises:
        GateError: an output departs from the original by more than its limit.
        TvmoptError: the original cannot be run here.
    """
    if draft.executor is None:
        message = f"not verified: this machine cannot run code for '{draft.target.name}'"
        report.remarks.append(Remark("analysis", "verify", "", message))
        return None
    seed = None if inputs is not None else SEED
    given = inputs
    if given is None:
        given = sample_inputs(imported.inputs, imported.input_ranges, SEED)
    verification = verify(draft.executor, imported, report, given, seed)
    draft.verification = verification
    return verification


def verify(
    executor: Executor,
    imported: "ImportedModel",
    report: Report,
    inputs: Mapping[str, Array],
    seed: int | None = None,
) -> Verification:
    """Runs both on `inputs` and compares every output; see `tvmopt.compiler.compare`.

    Raises:
        GateError: an output is beyond its limit; the hint names the first layer that departs. Or
            lower precision leaves too little of it: see `tvmopt.compiler.rounding`.
        InputError: the inputs are not the model's.
    """
    check_inputs(inputs, imported.inputs)
    reference = open_reference(imported)
    names = list(dict.fromkeys(spec.name for spec in imported.outputs))
    threads = default_threads()
    try:
        theirs = reference.run(inputs, names)
    except Exception as error:  # noqa: BLE001 - runtimes raise anything
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = f"{reference.name} failed to run the original model: {line}"
        raise TvmoptError(message, "compile with --no-verify") from None
    ours = executor.run(inputs, threads)
    limits: Mapping[str, float] = {}
    if report.precision != "float32":
        limits = rounding_limits(imported, reference, theirs, inputs, report.precision)
    errors = [
        _with_quality(compare(name, ours[name], theirs[name], limits.get(name)), ours, theirs)
        if name in limits
        else compare(name, ours[name], theirs[name])
        for name in names
    ]
    if not all(map(is_within, errors)):
        graph = imported.original().graph
        judged = forgive(errors, ours, theirs, reference, graph, inputs)
        if not all(map(is_within, judged)) and is_quantized(graph):
            steps = step_limits(imported.original(), reference, theirs, inputs)
            judged = [
                replace(one, limit=max(one.limit, steps.get(one.output, 0.0))) for one in judged
            ]
        report.remarks.extend(allowed(errors, judged))
        errors = judged
    for error in errors:
        if not is_within(error):
            departure = first_departure(
                executor,
                reference,
                report.layers,
                imported.node_outputs,
                inputs,
                threads,
                least_limit=error.limit,
            )
            details = _details(errors, departure)
            hint = f"{_hint(departure)}; or {_KEEP}" if error.output in limits else _hint(departure)
            raise GateError(_message(error, reference), hint, details)
    for error in errors:
        if error.finite_share < 1:
            share = f"{1 - error.finite_share:.3g} of it is NaN or infinite in the original, too"
            message = f"output '{error.output}': {share}"
            report.remarks.append(Remark("analysis", "verify", "", message))
    if limits:
        report.remarks.append(_on_precision(errors, limits, report.precision))
        report.remarks.extend(_on_noise(errors, report.precision))
    return Verification(reference.name, seed, tuple(errors), report.precision)


def _with_quality(
    error: OutputError, ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> OutputError:
    ratio_db, top_1 = quality(ours[error.output], theirs[error.output])
    return replace(error, sqnr_db=ratio_db, top_1=top_1)


def _on_precision(
    errors: Sequence[OutputError], limits: Mapping[str, float], precision: str
) -> Remark:
    """Says what was allowed, and why."""
    worst = max((e for e in errors if e.output in limits), key=lambda e: e.max_rel)
    message = (
        f"computed in {precision}: output '{worst.output}' has relative error {worst.max_rel:.2g}; "
        f"allowed are {worst.limit:.2g}, which is {FACTOR:.0f} times what rounding its weights "
        f"alone does to the original, at least {LEAST[precision]:.2g} and at most {MOST:.2g}"
    )
    return Remark("analysis", "verify", "", message)


def _on_noise(errors: Sequence[OutputError], precision: str) -> list[Remark]:
    """Refuses what is mostly noise, and warns of what has a lot."""
    worst = noisiest(errors)
    if worst is None or worst[1] >= POOR_SQNR_DB:
        return []
    error, ratio_db = worst
    message = f"output '{error.output}' has {ratio_db:.1f} dB signal to noise in {precision}"
    if ratio_db < LEAST_SQNR_DB:
        why = f"{message}; under {LEAST_SQNR_DB:.0f} dB it is of no use"
        raise GateError(why, f"{_KEEP}, or compile in float32", _details(errors, None))
    poor = f"{message}, which is poor: under {POOR_SQNR_DB:.0f} dB; {_KEEP}"
    return [Remark("missed", "verify", error.output, poor)]


def allowed(strict: Sequence[OutputError], judged: Sequence[OutputError]) -> list[Remark]:
    """Tells of outputs that miss their own limit and pass by an allowance: it is never silent."""
    remarks: list[Remark] = []
    for before, after in zip(strict, judged, strict=True):
        if is_within(before) or not is_within(after):
            continue
        why = f"{after.ties} integers differ where the original's choice is a tie"
        if after.limit > before.limit:
            why = (
                f"relative error {after.max_rel:.3g} is beyond {before.limit:.0e}, but the model "
                f"quantizes, where one rounding is a whole step: judged by {after.limit:.2g}"
            )
        remarks.append(Remark("missed", "verify", "", f"output '{after.output}': {why}"))
    return remarks


def _message(error: OutputError, reference: Reference) -> str:
    what = f"output '{error.output}' departs from the original ({reference.name})"
    if error.max_rel == float("inf"):
        return f"{what}: NaN or infinity where it has none, or another shape or dtype"
    if error.limit == 0:
        return f"{what}: integers differ by up to {error.max_abs:.6g}, they must be equal"
    return f"{what}: relative error {error.max_rel:.3g}, the limit is {error.limit:.0e}"


def _details(errors: Sequence[OutputError], departure: Departure | None) -> dict[str, Any]:
    """The figures of every output, and the first layer that departs."""
    return {
        "outputs": [asdict(error) for error in errors],
        "first_departure": asdict(departure) if departure else None,
    }


def _hint(departure: Departure | None) -> str:
    if departure is None:
        return "no single layer departs; see the layers with --dump-dir, and report the model"
    layer = departure.layer
    nodes = ", ".join(f"'{name}'" for name in layer.nodes)
    return (
        f"the first layer that departs is {nodes} ({layer.op}, kernel {layer.kernel}, schedule "
        f"{layer.schedule}): tensor '{departure.tensor}' has relative error "
        f"{departure.error.max_rel:.3g}; the {departure.compared} layers compared before it agree"
    )
