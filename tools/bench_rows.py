"""What `bench_peers.py` measured: rows, ratios, the table, and the limits they are held to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OWN = "tvmopt"
PEERS = ("onnxruntime", "openvino")
FLOAT = "tvmopt float32"
"""Our own package of the float model, beside that of a quantized one."""

_ERROR = 1e-4
_QUANTIZED_ERROR = 0.1


@dataclass
class Row:
    """One model on one number of threads. Times are of one inference of the whole batch."""

    model: str
    threads: int
    batch: int = 1
    compile_seconds: float = 0.0
    compile_peak_mb: float = 0.0
    load_seconds: float = 0.0
    onnx_bytes: int = 0
    package_bytes: int = 0
    median_ms: dict[str, float] = field(default_factory=dict[str, float])
    min_ms: dict[str, float] = field(default_factory=dict[str, float])
    run_peak_mb: dict[str, float] = field(default_factory=dict[str, float])
    """The most memory of a process of its own that loads the model and runs it, in 10^6 bytes."""
    relative_error: float | None = None
    quantized: bool = False
    precision: dict[str, str] = field(default_factory=dict[str, str])
    """Of a quantized model, by program: how many products are computed in what."""
    error: str = ""

    def ratio(self, peer: str) -> float | None:
        """Our median over the peer's; below 1 we are faster."""
        return _ratio(self.median_ms, peer)

    def memory_ratio(self, peer: str) -> float | None:
        """Our peak memory at run over the peer's; below 1 we need less."""
        return _ratio(self.run_peak_mb, peer)


@dataclass(frozen=True)
class Limits:
    """The most that each figure may be; None and missing peers are not judged.

    Attributes:
        ratio: our time over ONNX Runtime's, for each model.
        geomean: our time over a peer's, by its name: the geometric mean of all models.
        memory: our peak memory at run over ONNX Runtime's, for each model.
        error: the relative error against ONNX Runtime's output; None for 1e-4, or 0.1 of a
            quantized model.
        compile_seconds: import to package, for each model.
        float_ratio: our time of a quantized model over our float32 time, for each model.
    """

    ratio: float | None = None
    geomean: dict[str, float] = field(default_factory=dict[str, float])
    memory: float | None = None
    error: float | None = None
    compile_seconds: float | None = None
    float_ratio: float | None = None


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean that does not depend on which of two programs is the numerator."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def geomeans(rows: Sequence[Row], peer: str) -> dict[int, tuple[float, int]]:
    """By number of threads: the mean of the ratios to a peer, and how many models it is of."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (ratio := row.ratio(peer)) is not None:
            found.setdefault(row.threads, []).append(ratio)
    return {threads: (geometric_mean(many), len(many)) for threads, many in found.items()}


def speed_up(row: Row, rows: Sequence[Row], program: str = OWN) -> float | None:
    """One thread's time over this row's; None where that was not measured."""
    if row.threads == 1 or program not in row.median_ms:
        return None
    for one in rows:
        is_base = (one.model, one.batch, one.threads) == (row.model, row.batch, 1)
        if is_base and program in one.median_ms:
            return one.median_ms[program] / row.median_ms[program]
    return None


def tables_of(rows: Sequence[Row], peers: Sequence[str]) -> list[Any]:
    """`rich` tables, one of times and one of what they cost, a line for each row."""
    from rich.table import Table  # not above: the processes whose memory is measured have no use

    times = Table(title="median latency in ms; ratio = tvmopt / peer, below 1 tvmopt is faster")
    costs = Table(title="peak memory at run and its ratio to a peer's; what a compilation takes")
    overs = [f"/ {peer}" for peer in peers]
    floats = [FLOAT] if any(FLOAT in row.median_ms for row in rows) else []
    programs = (OWN, *floats, *peers)
    rivals = (*floats, *peers)
    for table, columns in (
        (times, (*programs, *(f"/ {name}" for name in rivals), "speed-up", "rel. error")),
        (costs, ("run MB", *overs, "compile s", "peak MB", "load s", "package/onnx")),
    ):
        table.add_column("model")
        for name in ("threads", *columns):
            table.add_column(name, justify="right")
    for row in rows:
        names = [row.model, str(row.threads)]
        if row.error:
            times.add_row(*names, "failed", style="red")
            continue
        cells = [_number(row.median_ms.get(name)) for name in programs]
        cells += [_number(row.ratio(name)) for name in rivals]
        cells.append(_number(speed_up(row, rows)))
        cells.append("-" if row.relative_error is None else f"{row.relative_error:.1e}")
        times.add_row(*names, *cells)
        cells = [_number(row.run_peak_mb.get(OWN), 0)]
        cells += [_number(row.memory_ratio(peer)) for peer in peers]
        cells += [f"{row.compile_seconds:.1f}", f"{row.compile_peak_mb:.0f}"]
        cells += [f"{row.load_seconds:.2f}", f"{row.package_bytes / row.onnx_bytes:.3f}"]
        costs.add_row(*names, *cells)
    return [times, costs]


def sentence(row: Row) -> str:
    """What is told of a row as soon as it is measured."""
    where = _place(row)
    if row.error:
        return f"{where}: {row.error}"
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in row.median_ms.items())
    peaks = ", ".join(f"{name} {mb:.0f} MB" for name, mb in row.run_peak_mb.items())
    return f"{where}: {times}" + (f"; {peaks}" if peaks else "")


def closing_lines(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """Precisions, geometric means for each number of threads, and the speed-ups that they bring."""
    told = {(row.model, name, text) for row in rows for name, text in row.precision.items()}
    lines = [f"{model}: {name} computes {text}" for model, name, text in sorted(told)]
    for peer in (FLOAT, *peers):
        for threads, (mean, count) in geomeans(rows, peer).items():
            models = f"geometric mean of {count} models"
            lines.append(f"{threads} thread(s): {OWN} / {peer} {mean:.3f}, {models}")
    for program in (OWN, *peers):
        ups: dict[int, list[float]] = {}
        for row in rows:
            if (up := speed_up(row, rows, program)) is not None:
                ups.setdefault(row.threads, []).append(up)
        for threads, many in ups.items():
            mean = geometric_mean(many)
            models = f"geometric mean of {len(many)} models"
            lines.append(f"{threads} threads over one: {program} {mean:.2f} times, {models}")
    return lines


def verdict(rows: Sequence[Row], limits: Limits) -> int:
    """Prints what is over a limit and what failed; returns the exit code."""
    over = [line for row in rows for line in _over(row, limits)]
    for peer, limit in limits.geomean.items():
        means = geomeans(rows, peer)
        if not means:
            over.append(f"no ratio to {peer} was measured, and its mean has a limit")
        for threads, (mean, _) in means.items():
            if not mean <= limit:
                what = f"the geometric mean of {OWN} / {peer}"
                over.append(f"{threads} thread(s): {what}, {mean:.3f}, is over {limit}")
    for line in over:
        print(line)
    failed = [row for row in rows if row.error]
    for row in failed:
        print(sentence(row))
    return 1 if failed else 3 if over else 0


def _over(row: Row, limits: Limits) -> list[str]:
    lines: list[str] = []
    ratio, memory = row.ratio("onnxruntime"), row.memory_ratio("onnxruntime")
    # A NaN is over every limit.
    error = limits.error
    if error is None:
        error = _QUANTIZED_ERROR if row.quantized else _ERROR
    if row.relative_error is not None and not row.relative_error <= error:
        lines.append(f"relative error {row.relative_error:.1e} is over {error:.1e}")
    if limits.ratio is not None and ratio is not None and ratio > limits.ratio:
        lines.append(f"{ratio:.2f} times ONNX Runtime's time is over {limits.ratio}")
    if limits.memory is not None and memory is not None and memory > limits.memory:
        lines.append(f"{memory:.2f} times ONNX Runtime's memory is over {limits.memory}")
    if limits.float_ratio is not None:
        own = row.ratio(FLOAT)
        if own is None and not row.error:
            lines.append("our float32 time has a limit and was not measured")
        elif own is not None and own > limits.float_ratio:
            lines.append(f"{own:.2f} times our float32 time is over {limits.float_ratio}")
    if limits.compile_seconds is not None and row.compile_seconds > limits.compile_seconds:
        lines.append(f"compiled in {row.compile_seconds:.1f} s, over {limits.compile_seconds} s")
    return [f"{_place(row)}: {line}" for line in lines]


def _place(row: Row) -> str:
    batch = f", batch {row.batch}" if row.batch != 1 else ""
    return f"{row.model}{batch}, {row.threads} thread(s)"


def _ratio(values: dict[str, float], peer: str) -> float | None:
    return values[OWN] / values[peer] if OWN in values and peer in values else None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
