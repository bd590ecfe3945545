"""Measures tvmopt against ONNX Runtime and OpenVINO: the same models, in one run, alternating.

    python tools/bench_peers.py --models DIR --threads 1,2 --json out.json
    python tools/bench_peers.py resnet18.onnx --peers onnxruntime --limit 1.25

Each model is compiled in a process of its own (time, peak memory), and measured in another one for
each number of threads, because thread pools keep the size that they begin with. Inside it the
programs take turns, run by run, on the same inputs and in float32; the table shows medians. The
error is the largest difference from ONNX Runtime's output over that output's largest value.
Exit code: 0; 1 when a model failed; 3 when a ratio or an error is over its limit.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

PEERS = ("onnxruntime", "openvino")
OWN = "tvmopt"

LEAST_ROUNDS = 5
BUSY = 0.75  # load average per CPU before we begin, from which others are in the way

Tensors = dict[str, NDArray[Any]]
ONCE = "--once"  # how this script calls itself


@dataclass
class Row:
    """One model on one number of threads. Times are of one inference, at batch size 1."""

    model: str
    threads: int
    compile_seconds: float = 0.0
    compile_peak_mb: float = 0.0
    load_seconds: float = 0.0
    onnx_bytes: int = 0
    package_bytes: int = 0
    median_ms: dict[str, float] = field(default_factory=dict[str, float])
    min_ms: dict[str, float] = field(default_factory=dict[str, float])
    relative_error: float | None = None
    error: str = ""

    def ratio(self, peer: str) -> float | None:
        """Our median over the peer's; below 1 we are faster."""
        if OWN not in self.median_ms or peer not in self.median_ms:
            return None
        return self.median_ms[OWN] / self.median_ms[peer]


@dataclass(frozen=True)
class Settings:
    """How to compile and how long to measure."""

    target: str
    disabled_passes: list[str]
    peers: list[str]
    repeat: int
    seconds: float
    warmup: int


def main() -> int:
    """Measures what the command line names; returns the exit code."""
    given = _parser().parse_args()
    models: list[Path] = [
        *given.onnx,
        *(sorted(given.models.glob("*.onnx")) if given.models else []),
    ]
    missing = [path for path in models if not path.is_file()]
    if missing or not models:
        print(f"error: no such model: {missing[0]}" if missing else "error: no model is given")
        return 2
    settings = Settings(
        given.target, given.disable_pass, given.peers, given.repeat, given.seconds, given.warmup
    )
    console = Console(stderr=True)
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        console.print(f"other programs are running ({load}): take the figures as rough")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            package = Path(folder) / f"{path.stem}.tvmpkg"
            compiled = _in_process("compile", [path, package], settings, threads=None)
            for threads in given.threads:
                row = Row(path.stem, threads, onnx_bytes=onnx_bytes(path))
                _update(row, compiled)
                if not row.error:
                    row.package_bytes = package.stat().st_size
                    _update(row, _in_process("measure", [path, package], settings, threads))
                rows.append(row)
                console.print(_sentence(row), style="red" if row.error else "", markup=False)
                if given.json:
                    write_json(given.json, rows, settings)
            package.unlink(missing_ok=True)
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(rows, settings.peers))
    return verdict(rows, given.limit, given.max_error)


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--models", type=Path, metavar="DIR", help="all its *.onnx files")
    parser.add_argument("--threads", type=_numbers, default=[1], metavar="1,2")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help=",".join(PEERS))
    parser.add_argument("--target", default="x86", help="tvmopt's target")
    parser.add_argument("--disable-pass", action="append", default=[], metavar="NAME")
    parser.add_argument("--repeat", type=int, default=50, help="most rounds of the programs")
    parser.add_argument("--seconds", type=float, default=20, help="about the most for measuring")
    parser.add_argument("--warmup", type=int, default=3, help="rounds that are not counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--limit", type=float, help="the most that tvmopt/onnxruntime may be")
    parser.add_argument("--max-error", type=float, default=1e-4, help="the most relative error")
    return parser


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _peers(text: str) -> list[str]:
    names = [part for part in text.split(",") if part]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"no peer is called '{name}'; there is {PEERS}")
    return names


def _in_process(
    step: str, paths: list[Path], settings: Settings, threads: int | None
) -> dict[str, Any]:
    """Runs one of `STEPS` in a fresh Python; what it returns, or its error."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        task = {
            "step": step,
            "paths": [str(path.absolute()) for path in paths],
            "settings": asdict(settings),
            "threads": threads,
            "result": result.name,
        }
        command = [sys.executable, __file__, ONCE, json.dumps(task)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        text = Path(result.name).read_text(encoding="utf-8")
    if done.returncode or not text:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"error": f"{step}: exit code {done.returncode}: {lines[-1]}"}
    return json.loads(text)


def run_once(task: dict[str, Any]) -> None:
    """The inside of `_in_process`."""
    onnx_path, package_path = map(Path, task["paths"])
    settings = Settings(**task["settings"])
    try:
        if task["step"] == "compile":
            values = compile_model(onnx_path, package_path, settings)
        else:
            values = measure(onnx_path, package_path, settings, task["threads"])
    except Exception as error:  # noqa: BLE001 - the other models shall be measured all the same
        traceback.print_exc()
        message = (str(error).splitlines() or [""])[0]
        values = {"error": f"{task['step']}: {type(error).__name__}: {message}"}
    Path(task["result"]).write_text(json.dumps(values), encoding="utf-8")


def compile_model(onnx_path: Path, package_path: Path, settings: Settings) -> dict[str, Any]:
    """Seconds and peak memory of import, passes, schedules, build and packaging."""
    start = time.perf_counter()
    import tvmopt

    tvmopt.compile(
        onnx_path,
        target=settings.target,
        output=package_path,
        disabled_passes=frozenset(settings.disabled_passes),
        verify=False,  # `measure` does; here ONNX Runtime's memory would count as ours
    )
    return {"compile_seconds": time.perf_counter() - start, "compile_peak_mb": peak_mb()}


def measure(
    onnx_path: Path, package_path: Path, settings: Settings, threads: int
) -> dict[str, Any]:
    """Medians and minima of all programs, and tvmopt's error against ONNX Runtime."""
    import tvmopt
    from tvmopt.compiler.benchmark import benchmark_alternating
    from tvmopt.compiler.peers import peer_runners

    start = time.perf_counter()
    package = tvmopt.load(package_path)
    load_seconds = time.perf_counter() - start
    inputs = package.sample_inputs()
    outputs = package.run(inputs, threads)
    runners: dict[str, Callable[[], object]] = {OWN: package.bind(inputs, threads)}
    runners |= peer_runners(settings.peers, onnx_path, inputs, threads)

    seconds: list[float] = []
    for _ in range(2):  # the first round allocates
        start = time.perf_counter()
        for run in runners.values():
            run()
        seconds.append(time.perf_counter() - start)
    # A turn is two runs, one of them not counted.
    rounds = int(settings.seconds / (2 * min(seconds)))
    repeat = max(LEAST_ROUNDS, min(settings.repeat, rounds))
    results = benchmark_alternating(runners, repeat=repeat, warmup=settings.warmup)
    return {
        "load_seconds": load_seconds,
        "relative_error": error_against_onnxruntime(onnx_path, inputs, outputs),
        "median_ms": {name: result.p50_us / 1e3 for name, result in results.items()},
        "min_ms": {name: result.min_us / 1e3 for name, result in results.items()},
    }


def error_against_onnxruntime(path: Path, inputs: Tensors, found: Tensors) -> float | None:
    """The error of tvmopt's outputs; None where ONNX Runtime is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, inputs), strict=True))
    return max(error_of(found[name], expected[name]) for name in names)


def error_of(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The error of one output: `max|found - expected| / max|expected|`; NaN when one has a NaN."""
    wide = expected.astype(np.float64)
    difference = np.abs(found.astype(np.float64) - wide).max(initial=0)
    scale = np.abs(wide).max(initial=0)
    return float(difference / scale) if scale else float(difference)


def peak_mb() -> float:
    """The most memory this process held so far, in 10^6 bytes.

    Not `getrusage`: Linux carries its value over from the parent through fork and exec.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("the kernel does not say VmHWM")


def onnx_bytes(path: Path) -> int:
    """The size of a model with its external data."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    locations: set[str] = set()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if uses_external_data(tensor):
            locations |= {e.value for e in tensor.external_data if e.key == "location"}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in locations)


def _update(row: Row, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(row, name, value)


def _sentence(row: Row) -> str:
    if row.error:
        return f"{row.model}, {row.threads} thread(s): {row.error}"
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in row.median_ms.items())
    return f"{row.model}, {row.threads} thread(s): {times}"


def table_of(rows: list[Row], peers: list[str]) -> Table:
    """One line for each model and number of threads."""
    table = Table(title="median latency in ms; ratio = tvmopt / peer, below 1 tvmopt is faster")
    table.add_column("model")
    for name in ("threads", OWN, *peers, *(f"/ {peer}" for peer in peers)):
        table.add_column(name, justify="right")
    for name in ("rel. error", "compile s", "peak MB", "load s", "package/onnx"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.error:
            table.add_row(row.model, str(row.threads), "failed", style="red")
            continue
        cells = [f"{row.median_ms[name]:.2f}" for name in (OWN, *peers)]
        cells += [f"{row.ratio(peer):.2f}" for peer in peers]
        cells.append("-" if row.relative_error is None else f"{row.relative_error:.1e}")
        cells += [f"{row.compile_seconds:.1f}", f"{row.compile_peak_mb:.0f}"]
        cells += [f"{row.load_seconds:.2f}", f"{row.package_bytes / row.onnx_bytes:.3f}"]
        table.add_row(row.model, str(row.threads), *cells)
    return table


def write_json(path: Path, rows: list[Row], settings: Settings) -> None:
    """Writes all rows so far, under a temporary name first."""
    data = {
        "machine": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[1],  # of 5 minutes: this script's own share is about 1
        },
        "versions": {name: version_of(name) for name in (OWN, "apache-tvm", *settings.peers)},
        "settings": asdict(settings),
        "rows": [
            {**asdict(row), "ratio": {peer: row.ratio(peer) for peer in settings.peers}}
            for row in rows
        ],
    }
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def cpu_name() -> str:
    """The CPU's name as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def version_of(distribution: str) -> str:
    """The installed version, or that there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def verdict(rows: list[Row], limit: float | None, max_error: float) -> int:
    """Prints what is wrong; returns the exit code."""
    code = 0
    for row in rows:
        where = f"{row.model}, {row.threads} thread(s)"
        ratio = row.ratio("onnxruntime")
        # A NaN is over every limit.
        if row.relative_error is not None and not row.relative_error <= max_error:
            print(f"{where}: relative error {row.relative_error:.1e} is over {max_error:.1e}")
            code = 3
        if limit is not None and ratio is not None and ratio > limit:
            print(f"{where}: {ratio:.2f} times ONNX Runtime's time is over {limit}")
            code = 3
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"{row.model}, {row.threads} thread(s): {row.error}")
    return 1 if failed else code


if __name__ == "__main__":
    if sys.argv[1:2] == [ONCE]:
        run_once(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
