"""What `tvmopt compile` says of the package that it has written."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmopt.cli.console import counted, note, print_fields, print_table, size_text
from tvmopt.cli.quantization_table import print_quantization, summary
from tvmopt.cli.reporting import (
    gate_text,
    print_passes,
    print_remarks,
    speed_text,
    verification_text,
)

if TYPE_CHECKING:
    from tvmopt.compiler.manifest import Manifest


def compiled_json(manifest: "Manifest", output: Path, seconds: float) -> dict[str, Any]:
    """What `--json` prints; `seconds` is what all took."""
    report = manifest.report
    return {
        "package": str(output),
        "size_bytes": output.stat().st_size,
        "seconds": seconds,
        "target": asdict(manifest.target),
        "inputs": [asdict(spec) for spec in manifest.inputs],
        "outputs": [asdict(spec) for spec in manifest.outputs],
        "verification": asdict(manifest.verification) if manifest.verification else None,
        "report": report.to_json(),
    }


def print_compiled(manifest: "Manifest", output: Path, seconds: float, *, verbose: bool) -> None:
    """Prints it for people."""
    report = manifest.report
    layers = report.layers
    fallbacks = [layer for layer in layers if layer.fallback]
    # What the phases do not hold is mostly the import of TVM.
    spent = {"start": seconds - sum(report.seconds.values()), **report.seconds}
    phases = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
    size = size_text(output.stat().st_size)
    fields = [
        ("package", f"{output} ({size})"),
        ("target", f"{manifest.target.name} ({', '.join(manifest.target.isa) or 'any CPU'})"),
        ("seconds", f"{seconds:.1f} ({phases})"),
        ("kernels", f"{len(layers)}, of which {len(fallbacks)} by the generic schedule"),
        ("verified", verification_text(manifest.verification)),
    ]
    if report.accuracy is not None:
        fields.append(("accuracy", gate_text(report.accuracy)))
    if report.speed is not None:
        fields.append(("speed", speed_text(report.speed)))
    if report.quantization:
        fields.append(("quantized", summary(report.quantization)))
    print_fields(fields)
    print_quantization(report.quantization, verbose=verbose)
    if fallbacks:
        rows = [
            (", ".join(layer.nodes) or layer.kernel, layer.op, layer.fallback)
            for layer in fallbacks
        ]
        print_table("generic schedules", ("layer", "op", "why"), rows)
    if verbose:
        print_passes(report)
        print_remarks(report, ("missed", "analysis"))
    else:
        missed = sum(remark.kind == "missed" for remark in report.remarks)
        if missed:
            note(
                f"{counted(missed, 'remark')} on what was left alone: -v or `tvmopt inspect` shows"
            )
