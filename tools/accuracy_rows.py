"""What `quantization_accuracy.py` found: rows, the table, and the limits they are held to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FLOAT = "float"
OWN = "tvmopt"
PEERS = ("onnxruntime",)
_ONE_STEP = ("--pass", "annotate-quantization:per-channel=false", "--no-verify")
VARIANTS = {
    "per-tensor": (*_ONE_STEP, "--disable-pass", "equalize-channels"),
    "per-tensor-equalized": _ONE_STEP,
}
"""Options of tvmopt for what its defaults save a model from, and for the repair alone."""


@dataclass
class Row:
    """One model, quantized by one program.

    Attributes:
        program: `float` for the model itself, run by ONNX Runtime.
        float_accuracy: of the model itself, 0 to 1; NaN where the samples have no labels.
        correlation: Spearman's, of the similarities of pairs of embeddings with those of the model
            itself; None where it makes no embeddings.
        error: why there are no figures.
        quantized: of tvmopt's package, how many layers have 8-bit weights.
        products: how many could have.
    """

    model: str
    program: str
    samples: int
    float_accuracy: float
    accuracy: float = math.nan
    correlation: float | None = None
    error: str = ""
    quantized: int | None = None
    products: int | None = None

    @property
    def drop_points(self) -> float:
        """Lost accuracy in percentage points."""
        return 100 * (self.float_accuracy - self.accuracy)

    @property
    def drop_percent(self) -> float:
        """Lost accuracy in percent of the model's own."""
        return self.drop_points / self.float_accuracy


@dataclass(frozen=True)
class Drop:
    """The most accuracy that may be lost: percentage points, or percent of the model's own."""

    most: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "Drop":
        """`0.3` (points) or `1%` (relative)."""
        return cls(float(text.removesuffix("%")), text.endswith("%"))

    def of(self, row: Row) -> float:
        """What of a row is compared with `most`."""
        return row.drop_percent if self.relative else row.drop_points

    def __str__(self) -> str:
        return f"{self.most:g} {'%' if self.relative else 'points'}"


@dataclass(frozen=True)
class Limits:
    """What tvmopt's rows are held to; peers are not judged.

    Attributes:
        drop: by model.
        correlation: the least, of every model that makes embeddings.
    """

    drop: dict[str, Drop]
    correlation: float | None = None


def table_of(rows: Sequence[Row]) -> Any:
    """A `rich` table, a line for each row."""
    from rich.table import Table

    table = Table(title="accuracy on test data; drops are of the float model's accuracy")
    table.add_column("model")
    table.add_column("quantized by")
    columns = ("in int8", "samples", "accuracy", "drop, points", "drop, relative")
    for name in (*columns, "rank correlation"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.error:
            table.add_row(row.model, row.program, "failed", style="red")
            continue
        layers = "-" if row.products is None else f"{row.quantized} of {row.products}"
        is_judged = not math.isnan(row.float_accuracy)
        correlation = "-" if row.correlation is None else f"{row.correlation:.4f}"
        table.add_row(
            row.model,
            row.program,
            layers,
            str(row.samples),
            f"{row.accuracy:.2%}" if is_judged else "-",
            f"{row.drop_points:.2f}" if is_judged else "-",
            f"{row.drop_percent:.2f} %" if is_judged else "-",
            correlation,
        )
    return table


def verdict(rows: Sequence[Row], limits: Limits) -> int:
    """Prints what is over a limit and what failed; returns the exit code."""
    failed = [row for row in rows if row.error]
    own = [row for row in rows if row.program == OWN and not row.error]
    over = [line for row in own for line in _over(row, limits)]
    known = {row.model for row in rows if row.program == OWN}
    over += [f"{name} has a limit and was not measured" for name in limits.drop.keys() - known]
    for line in over:
        print(line)
    for row in failed:
        print(f"{row.model}, {row.program}: {row.error}")
    return 1 if failed else 3 if over else 0


def _over(row: Row, limits: Limits) -> list[str]:
    lines: list[str] = []
    drop, correlation = limits.drop.get(row.model), limits.correlation
    # A NaN is over every limit.
    if drop is not None and not drop.of(row) <= drop.most:
        lines.append(f"{row.model}: a drop of {drop.of(row):.2f} is over {drop}")
    found = row.correlation
    if correlation is not None and found is not None and not found >= correlation:
        lines.append(f"{row.model}: a rank correlation of {found:.4f} is under {correlation:g}")
    return lines
