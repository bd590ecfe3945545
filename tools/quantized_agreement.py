"""How well compiled models that are quantized agree with ONNX Runtime, step by step.

    python tools/quantized_agreement.py a.onnx b.onnx --samples 4 --least 0.999

ONNX Runtime computes in both of its ways: `as written`, with graph optimizations disabled, which is
floats between dequantize and quantize; and `in integers`, by default, which saturates on CPUs
without VNNI unless weights have 7 bits. In deep networks the two are far apart: a step that rounds
the other way makes others do so in the layers after it. A model agrees that agrees with either.
The line tells how far the two are from each other, too. Inputs are normally distributed, or small
non-negative integers.

A step of an output is what one integer stands for: 1 for integers, the scale of the
`DequantizeLinear` that makes it, or a 255th of its range where a float operator does.

Exit code: 0; 3 when a share is less than `--least`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


def main() -> int:
    """Prints a line for each output; returns the exit code."""
    given = _parser().parse_args()
    poor = False
    for path in given.onnx:
        for one in agreements(path, given.target, given.samples, remarks=given.remarks):
            print(one, flush=True)
            poor |= max(one.as_written, one.in_integers) < given.least
    return 3 if poor else 0


@dataclass(frozen=True)
class Agreement:
    """The shares of an output's elements that are within one step of another's."""

    name: str
    step: float
    as_written: float
    in_integers: float
    peers: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.name}: within a step of {self.step:.3g}: {self.as_written:.5f} of ONNX Runtime "
            f"as written, {self.in_integers:.5f} in integers; the two: {self.peers:.5f}"
        )


def agreements(path: Path, target: str, samples: int, *, remarks: bool) -> list[Agreement]:
    """Compiles a model and compares each of its outputs."""
    import tvmopt

    package = tvmopt.compile(path, target=target, verify=False)
    if remarks:
        _print_remarks(package)
    level = ort.GraphOptimizationLevel
    levels = level.ORT_DISABLE_ALL, level.ORT_ENABLE_ALL
    sessions = [_session(path, one) for one in levels]
    feeds = [_feeds(sessions[0], seed) for seed in range(samples)]
    results = [[package.run(one) for one in feeds]]
    names = list(results[0][0])
    for session in sessions:
        outputs = (session.run(names, one) for one in feeds)
        results.append([dict(zip(names, map(np.asarray, one), strict=True)) for one in outputs])
    graph = onnx.load(path).graph
    found: list[Agreement] = []
    for name in names:
        ours, written, integer = (
            np.stack([one[name] for one in some]).astype("float64") for some in results
        )
        step = step_of(graph, name, written)
        shares = [
            float((np.abs(a - b) < 1.001 * step).mean())  # float32 rounds the step itself
            for a, b in ((ours, written), (ours, integer), (written, integer))
        ]
        found.append(Agreement(f"{path.name} {name}", step, *shares))
    return found


def _session(path: Path, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def step_of(graph: onnx.GraphProto, output: str, values: Array) -> float:
    """What one integer of an output stands for; a 255th of its range where that is not known."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Reshape", "Flatten", "Transpose", "Identity"):
        node = makers.get(node.input[0])
    if node is None or node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear"):
        return 1.0
    scales = {one.name: one for one in graph.initializer}
    if node.op_type == "DequantizeLinear" and node.input[1] in scales:
        return float(numpy_helper.to_array(scales[node.input[1]]).max())
    return float(np.ptp(values)) / 255 or 1.0


def _feeds(session: ort.InferenceSession, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for one in session.get_inputs():
        shape = [dim if isinstance(dim, int) else 1 for dim in one.shape]
        if one.type == "tensor(float)":
            feeds[one.name] = rng.standard_normal(shape).astype("float32")
        else:
            dtype = one.type.removeprefix("tensor(").removesuffix(")")
            feeds[one.name] = rng.integers(0, 100, shape).astype(dtype)
    return feeds


def _print_remarks(package: Any) -> None:
    for remark in package.report.remarks:
        if remark.kind == "missed" and remark.pass_name in ("realize-quantized", "layout"):
            print(f"  {remark.pass_name}: {remark.op}: {remark.message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("onnx", nargs="+", type=Path, help="quantized models")
    parser.add_argument("--target", default="x86", help="what to compile for")
    parser.add_argument("--samples", type=int, default=2, help="inputs to run")
    parser.add_argument("--least", type=float, default=0.999, help="share of the elements")
    parser.add_argument("--remarks", action="store_true", help="print what stays in float, and why")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
