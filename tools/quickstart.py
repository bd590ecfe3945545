"""Sets up tvmopt in `.venv` and does its main job on a small trained model, start to end.

    python3 tools/quickstart.py

The model is a CNN trained on handwritten digits (`tools/digits`). It is compiled for this machine,
verified against the original, scored on images that its training did not see, measured against ONNX
Runtime and OpenVINO, and profiled. Each command is printed before it runs.
"""

import shlex
import subprocess

from environment import ROOT, ensure, fail, say

MODEL = "tools/digits/digits.onnx"
PACKAGE = "build/digits.tvmpkg"
ORIGINAL = ("--model", MODEL)
PEERS = ("--against", "onnxruntime,openvino")
ONE_THREAD = ("--threads", "1")  # a model this small has nothing to share out
STEPS = (
    ("compile it for this machine and verify it", ["tvmopt", "compile", MODEL, "-o", PACKAGE]),
    ("score it on the test images", ["python", "tools/score_digits.py", PACKAGE]),
    (
        "measure it in turns with its peers",
        ["tvmopt", "benchmark", PACKAGE, *ORIGINAL, *PEERS, *ONE_THREAD],
    ),
    ("see where the time goes", ["tvmopt", "profile", PACKAGE, *ONE_THREAD]),
)


def main() -> None:
    """Runs the steps in order; the first that fails ends it with its exit code."""
    python = ensure(extras=["peers"])
    (ROOT / "build").mkdir(exist_ok=True)
    for title, (program, *arguments) in STEPS:
        say(f"\n# {title}\n$ {shlex.join(['.venv/bin/' + program, *arguments])}")
        command = [str(python.with_name(program)), *arguments]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            fail(f"`{program} {arguments[0]}` ended with {done.returncode}", "see the lines above")
    say(f"\nDone: {PACKAGE} holds the compiled model. The README says how to go on.")


if __name__ == "__main__":
    main()
