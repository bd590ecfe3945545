"""The import holds no more copies of the weights than it must."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import model, node, value

PROGRAM = """
import resource, sys
from pathlib import Path
from tvmopt import ModelSource
from tvmopt.compiler.importer import import_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
import_model(ModelSource(Path(sys.argv[1])))
print((peak() - before) / 1024)
"""

LAYERS, SIZE = 12, 1024
WEIGHTS_MIB = LAYERS * SIZE * SIZE * 4 / 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("external", "copies"),
    [
        (True, 2.2),  # mapped pages of the file, and TVM's constants
        (False, 3.3),  # the file's bytes, the proto and its values; then TVM's in their place
    ],
)
def test_peak_memory_of_an_import(tmp_path: Path, external: bool, copies: float) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((SIZE, SIZE), dtype=np.float32) for i in range(LAYERS)}
    nodes = [
        node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"layer{i}") for i in range(LAYERS)
    ]
    proto = model(nodes, [value("x0", [1, SIZE])], [value(f"x{LAYERS}", [1, SIZE])], weights)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=external, location="weights.bin")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) < copies * WEIGHTS_MIB + 40  # MiB of everything else
