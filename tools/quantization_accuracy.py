"""Measures what int8 costs in accuracy: tvmopt and ONNX Runtime quantize the same trained models.

    python tools/make_models.py --output DIR --trained
    python tools/quantization_accuracy.py DIR --max-drop digits_cnn=0.3 --max-drop lines_encoder=1%
    python tools/quantization_accuracy.py DIR lines_encoder --option --calibrator=mse

For each model of DIR the figures are of the test samples; ranges come from the calibration samples,
which are others. `onnxruntime` is its static quantization (QDQ) with default settings. `tvmopt` is
`tvmopt compile --quantize int8` with the options given by `--option`; `--variant` adds rows for
repairs: weights with one step for all channels, without and with equalization of their ranges.

The rank correlation of a model with embeddings is Spearman's, between the cosine similarities of
pairs of samples in int8 and in float.

Exit code: 0; 1 when a program failed; 3 when a figure of tvmopt's is over its limit.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_rows import FLOAT, OWN, PEERS, VARIANTS, Drop, Limits, Row, table_of, verdict
from numpy.typing import NDArray

LABEL = "label"
EMBEDDING = "sentence_embedding"
PAIRS = 20_000
SEED = 0

Tensors = dict[str, NDArray[Any]]
Infer = Callable[[Tensors], Tensors]


def main() -> int:
    """Measures what the command line names; returns the exit code."""
    from rich.console import Console

    given = _parser().parse_args()
    known = sorted(path.name.removesuffix("_test.npz") for path in given.folder.glob("*_test.npz"))
    unknown = [name for name in (*given.names, *dict(given.max_drop)) if name not in known]
    if unknown or not known:
        missing = f"no model is called '{unknown[0]}'" if unknown else "there is no model"
        print(f"error: {missing} in {given.folder}; there is {', '.join(known) or 'nothing'}")
        return 2
    rows: list[Row] = []
    for name in given.names or known:
        programs = [*given.peers, *given.variant, OWN]
        rows += rows_of(given.folder, name, programs, given.target, given.option)
        if given.json:
            write_json(given.json, rows)
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(rows))
    return verdict(rows, Limits(dict(given.max_drop), given.min_correlation))


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="written by make_models.py")
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all models of DIR")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help=",".join(PEERS))
    parser.add_argument(
        "--variant", action="append", default=[], choices=list(VARIANTS), help="repeatable"
    )
    parser.add_argument("--target", default="x86", help="tvmopt's target")
    parser.add_argument(
        "--option", action="append", default=[], metavar="OPTION", help="of tvmopt compile"
    )
    parser.add_argument(
        "--max-drop",
        type=_drop,
        action="append",
        default=[],
        metavar="NAME=DROP",
        help="the most accuracy that tvmopt may lose: 0.3 (points) or 1%% (relative)",
    )
    parser.add_argument(
        "--min-correlation", type=float, metavar="R", help="the least rank correlation of tvmopt"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser


def _peers(text: str) -> list[str]:
    names = [part for part in text.split(",") if part]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"no peer is called '{name}'; there is {PEERS}")
    return names


def _drop(text: str) -> tuple[str, Drop]:
    name, _, drop = text.partition("=")
    return name, Drop.parse(drop)


def rows_of(
    folder: Path, name: str, programs: list[str], target: str, options: list[str]
) -> list[Row]:
    """The float model's row and one for each program."""
    model, calibration = folder / f"{name}.onnx", folder / f"{name}_calibration.npz"
    with np.load(folder / f"{name}_test.npz") as arrays:
        samples: Tensors = dict(arrays)
    labels = samples.pop(LABEL, None)
    expected = outputs_of(onnxruntime_inference(model), samples)
    right, count = accuracy_of(expected, labels), len(next(iter(samples.values())))
    rows = [Row(name, FLOAT, count, right, right)]
    for program in programs:
        row = Row(name, program, count, right)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                if program in PEERS:
                    infer = quantized_by_onnxruntime(model, calibration, Path(scratch))
                else:
                    given = [*options, *VARIANTS.get(program, ())]
                    package = compiled_by_tvmopt(model, calibration, Path(scratch), target, given)
                    layers = package.manifest.report.quantization
                    row.products = sum(one.bytes_float is not None for one in layers)
                    row.quantized = sum(one.bytes_int8 is not None for one in layers)
                    infer = package.run
                outputs = outputs_of(infer, samples)
            row.accuracy = accuracy_of(outputs, labels)
            if EMBEDDING in outputs:
                row.correlation = rank_correlation(
                    similarities(outputs[EMBEDDING]), similarities(expected[EMBEDDING])
                )
        except Exception as error:  # noqa: BLE001 - the others shall be measured all the same
            row.error = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def compiled_by_tvmopt(
    model: Path, calibration: Path, scratch: Path, target: str, options: list[str]
) -> Any:
    """Compiles with the command line, as users do.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    import tvmopt

    package = scratch / "int8.tvmpkg"
    command = [sys.executable, "-m", "tvmopt", "compile", str(model), "--target", target]
    command += ["--quantize", "int8", "--calibration", str(calibration)]
    command += ["--output", str(package), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")
    return tvmopt.load(package)


def quantized_by_onnxruntime(model: Path, calibration: Path, scratch: Path) -> Infer:
    """Static quantization to QDQ with nothing but defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        """One sample after the other."""

        def __init__(self) -> None:
            with np.load(calibration) as arrays:
                self._samples = samples_of(dict(arrays))

        def get_next(self) -> Tensors | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(self._samples, None)

    quantized = scratch / "int8.onnx"
    quantize_static(model, quantized, Reader())
    return onnxruntime_inference(quantized)


def onnxruntime_inference(model: Path) -> Infer:
    """Runs a file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def outputs_of(infer: Infer, samples: Tensors) -> Tensors:
    """The outputs for all samples, one after the other: the models are for one."""
    found = [infer(sample) for sample in samples_of(samples)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def samples_of(arrays: Tensors) -> Any:
    """An iterator over batches of one."""
    count = len(next(iter(arrays.values())))
    return iter(
        {name: values[index : index + 1] for name, values in arrays.items()}
        for index in range(count)
    )


def accuracy_of(outputs: Tensors, labels: NDArray[Any] | None) -> float:
    """The part of the samples whose label has the largest value of the first output.

    An output with a NaN is wrong. NaN where the samples have no labels.
    """
    if labels is None:
        return math.nan
    logits = next(iter(outputs.values()))
    right = (logits.argmax(1) == labels) & ~np.isnan(logits).any(1)
    return float(right.mean())


def similarities(embeddings: NDArray[Any]) -> NDArray[Any]:
    """Cosines of `PAIRS` random pairs of rows, always the same ones."""
    first, second = np.random.default_rng(SEED).integers(len(embeddings), size=(2, PAIRS))
    distinct = first != second
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (unit[first[distinct]] * unit[second[distinct]]).sum(1)


def rank_correlation(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Spearman's coefficient; equal values, rare here, are ranked in their order."""
    ranks = [values.argsort().argsort() for values in (found, expected)]
    return float(np.corrcoef(*ranks)[0, 1])


def write_json(path: Path, rows: list[Row]) -> None:
    """Writes all rows so far, under a temporary name first."""
    data = [
        {**asdict(row), "drop_points": row.drop_points, "drop_percent": row.drop_percent}
        for row in rows
    ]
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps({"rows": data}, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
