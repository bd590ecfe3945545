"""A quantized model against its own simulation, and how much of the original is left of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from tvmopt.compiler.allowances import QUANTIZED_LIMIT
from tvmopt.compiler.compare import compare, is_within
from tvmopt.compiler.executor import Array
from tvmopt.compiler.manifest import OutputError, Verification
from tvmopt.compiler.reference import open_reference
from tvmopt.compiler.rounding import LEAST_SQNR_DB, POOR_SQNR_DB, noisiest, quality
from tvmopt.compiler.threads import default_threads
from tvmopt.errors import GateError
from tvmopt.report import Remark, Report

if TYPE_CHECKING:
    from tvmopt.compiler.draft import PackageDraft
    from tvmopt.compiler.importer import ImportedModel

Simulate = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Computes the outputs of a quantized model by name, in floats."""

_MOST_BATCHES = 16
_REMEDY = (
    "give more calibration data, another --calibrator, or keep layers out by --exclude PATTERN"
)
_MOST = 0.5
"""No output may be further from the simulation than this, however far that is from the original."""

_TIES = 0.01
"""Share of the integers that may differ: an ArgMax of floats that are equal within a step."""


def verify_quantized(
    draft: "PackageDraft",
    imported: "ImportedModel",
    simulate: Simulate,
    report: Report,
    batches: Iterable[Mapping[str, Array]],
) -> Verification | None:
    """Judges a quantized package before it is published; the figures go into its manifest.

    Its outputs must be those of the simulation, which computes the same roundings in float32, but
    for `QUANTIZED_LIMIT`; or for as much as the simulation departs from the original, where that is
    more: in deep networks single steps that are rounded the other way move the outputs as far as
    quantization itself does. How far they are from the original's is reported.

    Args:
        draft: what was compiled, as it will be shipped.
        imported: the original.
        simulate: the simulation.
        report: where remarks go.
        batches: inputs; the first few are used.

    Raises:
        GateError: the package computes something else than the simulation, or too little is left
            of the original.
        TvmoptError: the original cannot be run here.
    """
    if draft.executor is None:
        message = f"not verified: this machine cannot run code for '{draft.target.name}'"
        report.remarks.append(Remark("analysis", "verify", "", message))
        return None
    reference = open_reference(imported)
    names = list(dict.fromkeys(spec.name for spec in imported.outputs))
    threads = default_threads()
    ours, wanted, exact = [], [], []
    for batch in islice(batches, _MOST_BATCHES):
        ours.append(draft.executor.run(batch, threads))
        wanted.append(simulate(batch))
        exact.append(reference.run(batch, names))
    errors = [
        _judge(name, *(_all(results, name) for results in (ours, wanted, exact))) for name in names
    ]
    for error in errors:
        if not is_within(error):
            message = (
                f"output '{error.output}' departs from the simulation of the quantized model: "
                f"relative error {error.max_rel:.3g}, the limit is {error.limit:.2g}"
            )
            hint = "an integer kernel is wrong: report the model, and compile without --quantize"
            raise GateError(message, hint, {"outputs": [asdict(one) for one in errors]})
    errors = [_with_quality(one, _all(ours, one.output), _all(exact, one.output)) for one in errors]
    report.remarks.append(_remark(errors, len(ours)))
    report.remarks.extend(_poor(errors))
    verification = Verification(reference.name, None, tuple(errors), report.precision)
    draft.verification = verification
    return verification


def _all(results: Sequence[Mapping[str, Array]], name: str) -> Array:
    """An output of all batches, one after the other."""
    return np.concatenate([np.atleast_1d(one[name]) for one in results])


def _judge(name: str, ours: Array, wanted: Array, exact: Array) -> OutputError:
    if wanted.dtype.kind == "f" or ours.shape != wanted.shape:
        departure = compare(name, wanted, exact).max_rel
        return compare(name, ours, wanted, min(_MOST, max(QUANTIZED_LIMIT, departure)))
    error = compare(name, ours, wanted, _TIES)
    return replace(error, max_rel=float((ours != wanted).mean()))


def _with_quality(error: OutputError, ours: Array, exact: Array) -> OutputError:
    ratio_db, top_1 = quality(ours, exact)
    return replace(error, sqnr_db=ratio_db, top_1=top_1)


def _poor(errors: Sequence[OutputError]) -> list[Remark]:
    worst = noisiest(errors)
    if worst is None or worst[1] >= POOR_SQNR_DB:
        return []
    error, ratio_db = worst
    message = f"output '{error.output}' has {ratio_db:.1f} dB signal to noise in int8"
    if ratio_db < LEAST_SQNR_DB:
        details = {"outputs": [asdict(one) for one in errors]}
        why = f"{message}; under {LEAST_SQNR_DB:.0f} dB it is of no use"
        raise GateError(why, f"{_REMEDY}, or compile in float32", details)
    poor = f"{message}, which is poor: under {POOR_SQNR_DB:.0f} dB; {_REMEDY}"
    return [Remark("missed", "verify", error.output, poor)]


def _remark(errors: Sequence[OutputError], batches: int) -> Remark:
    noise = noisiest(errors)
    agreed = [one.top_1 for one in errors if one.top_1 is not None]
    parts = [f"signal to noise {noise[1]:.1f} dB of output '{noise[0].output}'"] if noise else []
    parts += [f"same top-1 in {min(agreed):.1%} of the rows"] if agreed else []
    said = ", ".join(parts) or "no difference"
    return Remark("analysis", "verify", "", f"int8 against float32: {said} ({batches} batches)")
