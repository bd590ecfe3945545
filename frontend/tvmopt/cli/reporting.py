"""How a compilation's report and verification are shown by several subcommands."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from tvmopt.cli.console import print_table

if TYPE_CHECKING:
    from tvmopt.compiler.manifest import Verification
    from tvmopt.report import Accuracy, RemarkKind, Report, Speed


def verification_text(verification: "Verification | None") -> str:
    """The comparison with the original in one line."""
    from tvmopt.compiler.rounding import POOR_SQNR_DB, noisiest

    if verification is None:
        return "no (--no-verify)"
    worst = max(verification.outputs, key=lambda o: o.max_rel, default=None)
    errors = f": relative error {worst.max_rel:.1e}, absolute {worst.max_abs:.1e}" if worst else ""
    if worst and verification.precision != "float32":
        errors += f", in {verification.precision}, where {worst.limit:.1e} is allowed"
        noise = noisiest(verification.outputs)
        same = [o.top_1 for o in verification.outputs if o.top_1 is not None]
        errors += f"; signal to noise {noise[1]:.0f} dB" if noise else ""
        errors += " (POOR)" if noise and noise[1] < POOR_SQNR_DB else ""
        errors += f"; same top-1 in {min(same):.0%} of the rows" if same else ""
    return f"against {verification.reference}{errors}"


def speed_text(speed: "Speed") -> str:
    """What quantization brought, in one line."""
    times = f"int8 {speed.int8_us:.0f} us, float32 {speed.float_us:.0f} us"
    slower = "; int8 is SLOWER" if speed.is_slower else ""
    return f"{times}, ratio {speed.ratio:.2f} (threads: {speed.threads}){slower}"


def gate_text(accuracy: "Accuracy") -> str:
    """What the accuracy gate found, in one line."""
    from tvmopt.compiler.accuracy_check import accuracy_text

    return accuracy_text(accuracy) + ("" if accuracy.holds else " (MISSED)")


def print_verification(verification: "Verification") -> None:
    """The errors of each output."""
    rows = [
        (o.output, f"{o.max_abs:.2e}", f"{o.max_rel:.2e}", f"{o.limit:.0e}")
        for o in verification.outputs
    ]
    numbers = ("max error", "relative", "limit")
    title = f"verified against {verification.reference}"
    print_table(title, ("output", *numbers), rows, numbers)


def print_passes(report: "Report") -> None:
    """The passes in the order in which they ran, and how often each fired or did not."""
    counts = Counter((r.pass_name, r.kind) for r in report.remarks)
    rows = [
        (
            p.name,
            p.stage.lower(),
            p.origin,
            f"{p.seconds:.2f}",
            "yes" if p.changed else "no",
            counts[p.name, "passed"],
            counts[p.name, "missed"],
        )
        for p in report.passes
    ]
    columns = ("pass", "stage", "plugin", "seconds", "changed", "rewrites", "left alone")
    print_table("passes", columns, rows, ("seconds", "rewrites", "left alone"))


def print_remarks(report: "Report", kinds: "Collection[RemarkKind]") -> None:
    """Remarks of these kinds, if there are any."""
    rows = [(r.pass_name, r.op, r.message) for r in report.remarks if r.kind in kinds]
    if rows:
        print_table("remarks", ("pass", "node", "remark"), rows)


def print_layers(report: "Report") -> None:
    """The kernels in the order of execution, and which schedule each has."""
    rows = [
        (
            ", ".join(layer.nodes) or layer.kernel,
            layer.op,
            ", ".join(layer.outputs),
            f"{layer.flops / 1e6:.1f}" if layer.flops else "-",
            f"{layer.schedule} ({layer.fallback})" if layer.fallback else layer.schedule,
        )
        for layer in report.layers
    ]
    columns = ("layer", "op", "output", "MFLOP", "schedule")
    print_table("kernels", columns, rows, ("MFLOP",))
