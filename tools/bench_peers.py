"""Measures tvmopt against ONNX Runtime and OpenVINO: the same models, in one run, alternating.

    python tools/bench_peers.py --models DIR --threads 1,2 --json out.json
    python tools/bench_peers.py resnet18.onnx --limit 1.05 --limit-geomean onnxruntime=0.85
    python tools/bench_peers.py --models DIR8 --batch 8     # made by make_models.py --batch 8
    python tools/bench_peers.py resnet18.onnx --quantize    # int8, the same QDQ file for all

Each model is compiled in a process of its own (time, peak memory), and measured in another one for
each number of threads, because thread pools keep the size that they begin with. Inside it the
programs take turns, run by run, on the same inputs; the table shows medians. All compute in
float32; with `--precision bf16` tvmopt and OpenVINO compute in bfloat16, which ONNX Runtime lacks.
The error is the largest difference from ONNX Runtime's output over that output's largest value.

Quantized models are computed in integers; how many of its products each program computes so is said
below the table. `--quantize` makes a QDQ file of each float model and measures our float32 package
of the float model beside; `--floats DIR` does that for files that are quantized already. Errors of
quantized models are against ONNX Runtime without optimizations: its integer kernels may saturate.

`run MB` is the peak memory of one more process for each program, which does nothing but load the
model and run it: interpreter, libraries, weights and activations.

Exit code: 0; 1 when a model failed; 3 when a figure is over its limit.
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
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench_quantized
import numpy as np
from bench_rows import FLOAT, OWN, PEERS, Limits, Row, closing_lines, sentence, tables_of, verdict
from numpy.typing import NDArray

LEAST_ROUNDS = 5
MEMORY_RUNS = 5  # of a process whose memory is measured
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
BUSY = 0.75  # load average per CPU before we begin, from which others are in the way

Tensors = dict[str, NDArray[Any]]
ONCE = "--once"  # how this script calls itself


@dataclass(frozen=True)
class Settings:
    """How to compile and how long to measure; no batch size is the exported one."""

    target: str
    disabled_passes: list[str]
    peers: list[str]
    repeat: int
    seconds: float
    warmup: int
    batch: int | None = None
    precision: str = "float32"
    reduce_range: bool = False

    @property
    def passes(self) -> dict[str, dict[str, str]]:
        """What tvmopt is asked for beyond its own passes."""
        lowered = self.precision != "float32"
        return {"mixed-precision": {"dtype": self.precision}} if lowered else {}


def main() -> int:
    """Measures what the command line names; returns the exit code."""
    from rich.console import Console  # not above: as in `tables_of`

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
        given.target,
        given.disable_pass,
        given.peers,
        given.repeat,
        given.seconds,
        given.warmup,
        given.batch,
        PRECISIONS[given.precision],
        not (given.full_range or bench_quantized.adds_in_32_bits()),
    )
    limits = Limits(
        given.limit,
        dict(given.limit_geomean),
        given.limit_memory,
        given.max_error,
        given.limit_compile,
        given.limit_float,
    )
    console = Console(stderr=True)
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        console.print(f"other programs are running ({load}): take the figures as rough")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in models:
            files, made = _prepare(source, Path(folder), settings, given)
            for threads in given.threads:
                row = Row(source.stem, threads, given.batch or 1)
                _update(row, made)
                if not row.error:
                    row.onnx_bytes = onnx_bytes(files[0])
                    row.package_bytes = files[1].stat().st_size
                    _update(row, _in_process("measure", files, settings, threads))
                if not row.error and given.memory:
                    _update(row, run_peaks(files, settings, threads))
                rows.append(row)
                console.print(sentence(row), style="red" if row.error else "", markup=False)
                if given.json:
                    write_json(given.json, rows, settings)
            for path in files:
                if path != source:
                    path.unlink(missing_ok=True)
    Console(width=None if sys.stdout.isatty() else 150).print(*tables_of(rows, settings.peers))
    print(*closing_lines(rows, settings.peers), sep="\n")
    return verdict(rows, limits)


def _prepare(
    source: Path, folder: Path, settings: Settings, given: argparse.Namespace
) -> tuple[list[Path], dict[str, Any]]:
    """Makes what `measure` takes: the model, our package, and that of the float model if asked.

    Returns:
        Their paths, and what to note in a row: of the compilation, or an error.
    """
    model, package, floats = source, folder / f"{source.stem}.tvmpkg", None
    if given.quantize:
        model, floats = folder / f"{source.stem}.int8.onnx", source
        done = _in_process("quantize", [source, model], settings, threads=None)
        if "error" in done:
            return [], done
    elif given.floats is not None:
        floats = given.floats / source.name
    made = _in_process("compile", [model, package], settings, threads=None)
    files = [model, package]
    if floats is not None and "error" not in made:
        files.append(folder / f"{source.stem}.float.tvmpkg")
        done = _in_process("compile", [floats, files[2]], settings, threads=None)
        if "error" in done:
            return files, done
    return files, made


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
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument(
        "--quantize", action="store_true", help="make a QDQ file of each model, for all programs"
    )
    parser.add_argument(
        "--full-range",
        action="store_true",
        help="with --quantize: weights of 8 bits where sums of two products saturate "
        "(ONNX Runtime on CPUs without VNNI); by default such CPUs get 7 bits",
    )
    parser.add_argument(
        "--floats", type=Path, metavar="DIR", help="float models of the same names, measured beside"
    )
    parser.add_argument("--repeat", type=int, default=50, help="most rounds of the programs")
    parser.add_argument("--seconds", type=float, default=20, help="about the most for measuring")
    parser.add_argument("--warmup", type=int, default=3, help="rounds that are not counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--batch", type=int, metavar="N", help="size of open first dimensions")
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="leave out peak memory at run"
    )
    parser.add_argument("--limit", type=float, help="the most that tvmopt/onnxruntime may be")
    parser.add_argument(
        "--limit-geomean",
        type=_peer_limit,
        action="append",
        default=[],
        metavar="PEER=RATIO",
        help="the most that the geometric mean of tvmopt/PEER may be",
    )
    parser.add_argument(
        "--limit-memory",
        type=float,
        metavar="RATIO",
        help="the most that peak memory at run may be of ONNX Runtime's",
    )
    parser.add_argument(
        "--limit-float", type=float, metavar="RATIO", help="the most of our own float32 time"
    )
    parser.add_argument("--limit-compile", type=float, metavar="SECONDS", help="for each model")
    parser.add_argument(
        "--max-error",
        type=float,
        help="the most relative error; by default 1e-4, and 0.1 of quantized models, whose "
        "numbers fall to the other side of a rounding here and there",
    )
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


def _peer_limit(text: str) -> tuple[str, float]:
    name, _, ratio = text.partition("=")
    return _peers(name)[0], float(ratio)


def _in_process(
    step: str, paths: list[Path], settings: Settings, threads: int | None, program: str = OWN
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
            "program": program,
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
    onnx_path, package_path, *float_path = map(Path, task["paths"])
    settings = Settings(**task["settings"])
    try:
        if task["step"] == "quantize":
            bench_quantized.quantize_file(
                onnx_path, package_path, reduce_range=settings.reduce_range
            )
            values: dict[str, Any] = {}
        elif task["step"] == "compile":
            values = compile_model(onnx_path, package_path, settings)
        elif task["step"] == "memory":
            values = load_and_run(
                onnx_path, package_path, task["threads"], task["program"], settings.precision
            )
        else:
            values = measure(onnx_path, package_path, settings, task["threads"], *float_path)
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
        input_shapes=input_shapes_at(onnx_path, settings.batch) if settings.batch else None,
        passes=settings.passes,
        disabled_passes=frozenset(settings.disabled_passes),
        verify=False,  # `measure` does; here ONNX Runtime's memory would count as ours
    )
    return {"compile_seconds": time.perf_counter() - start, "compile_peak_mb": peak_mb()}


def input_shapes_at(path: Path, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's inputs with their first dimension set to `batch` where it is open."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in constants or not dims:
            continue
        first, *rest = [dim.dim_value for dim in dims]
        if first not in (0, batch):
            hint = "export it for this one (tools/make_models.py --batch N)"
            raise ValueError(f"input '{value.name}' has the fixed batch size {first}: {hint}")
        if 0 in rest:
            raise ValueError(f"input '{value.name}' has more open dimensions than its batch size")
        shapes[value.name] = (batch, *rest)
    return shapes


def run_peaks(paths: list[Path], settings: Settings, threads: int) -> dict[str, Any]:
    """`Row.run_peak_mb`, of programs that take turns in nothing: each has its own process."""
    peaks: dict[str, float] = {}
    for program in (OWN, *settings.peers):
        found = _in_process("memory", paths, settings, threads, program)
        if "error" in found:
            return {"error": f"{program}: {found['error']}"}
        peaks[program] = found["mb"]
    return {"run_peak_mb": peaks}


def load_and_run(
    onnx_path: Path, package_path: Path, threads: int, program: str, precision: str
) -> dict[str, float]:
    """Peak memory in MB of this process after a few runs on the inputs that `measure` left."""
    with np.load(inputs_of(package_path)) as arrays:
        inputs: Tensors = dict(arrays)
    if program == OWN:
        import tvmopt

        run = tvmopt.load(package_path).bind(inputs, threads)
    else:
        from tvmopt.peers import peer_runners

        run = peer_runners([program], onnx_path, inputs, threads, precision)[program]
    for _ in range(MEMORY_RUNS):
        run()
    return {"mb": peak_mb()}


def inputs_of(package_path: Path) -> Path:
    """Where the inputs lie that a package was measured with."""
    return package_path.with_suffix(".npz")


def measure(
    onnx_path: Path,
    package_path: Path,
    settings: Settings,
    threads: int,
    float_path: Path | None = None,
) -> dict[str, Any]:
    """Medians and minima of all programs, and tvmopt's error against ONNX Runtime."""
    import tvmopt
    from tvmopt.compiler.benchmark import benchmark_alternating
    from tvmopt.peers import peer_runners

    start = time.perf_counter()
    package = tvmopt.load(package_path)
    load_seconds = time.perf_counter() - start
    inputs = package.sample_inputs()
    np.savez(inputs_of(package_path), **inputs)
    outputs = package.run(inputs, threads)
    runners: dict[str, Callable[[], object]] = {OWN: package.bind(inputs, threads)}
    if float_path is not None:
        runners[FLOAT] = tvmopt.load(float_path).bind(inputs, threads)
    runners |= peer_runners(settings.peers, onnx_path, inputs, threads, settings.precision)
    quantized = bench_quantized.is_quantized(onnx_path)

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
        "relative_error": error_against_onnxruntime(
            onnx_path, inputs, outputs, optimized=not quantized
        ),
        "quantized": quantized,
        "precision": precisions(package, onnx_path, settings.peers) if quantized else {},
        "median_ms": {name: result.p50_us / 1e3 for name, result in results.items()},
        "min_ms": {name: result.min_us / 1e3 for name, result in results.items()},
    }


def precisions(package: Any, path: Path, peers: list[str]) -> dict[str, str]:
    """In what each program computes the products of a quantized model."""
    found = {OWN: bench_quantized.own_precision(package)}
    if "onnxruntime" in peers:
        with tempfile.TemporaryDirectory() as folder:
            found["onnxruntime"] = bench_quantized.onnxruntime_precision(path, Path(folder))
    if "openvino" in peers:
        found["openvino"] = bench_quantized.openvino_precision(path)
    return found


def error_against_onnxruntime(
    path: Path, inputs: Tensors, found: Tensors, *, optimized: bool
) -> float | None:
    """The error of tvmopt's outputs; None where ONNX Runtime is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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


if __name__ == "__main__":
    if sys.argv[1:2] == [ONCE]:
        run_once(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
