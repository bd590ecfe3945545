"""Ctrl-C while a model is compiled: exit code 130, one line, no file, whatever TVM makes of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tvmopt.cli.interrupts import remembered

PRESS = """
import os, signal, sys
from tvmopt.compiler import attempts, pipeline, stages
from tvmopt.cli import main
def press():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
    except KeyboardInterrupt:
        pass
inner = {step}
def interrupted(*args, **options):
    {body}
{step} = interrupted
sys.exit(main())
"""

LOST = "press(); return inner(*args, **options)"
EMPTY = "press(); raise RuntimeError('')"
USERS = "press(); from tvmopt import GateError; raise GateError('it departs')"
DESTROYED = """
    class Pressed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
    Pressed()
    return inner(*args, **options)
"""


def said(stderr: str) -> list[str]:
    """What stderr holds besides progress and the line break after the terminal's ^C."""
    return [line for line in stderr.splitlines() if line and not line.startswith("[")]


@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("stages.import_model", LOST),
        ("stages.run_pass", EMPTY),
        ("stages.run_pass", DESTROYED),
        ("attempts.build", EMPTY),
        ("pipeline.verify_draft", LOST),
        ("pipeline.verify_draft", USERS),
    ],
)
def test_ctrl_c_that_is_lost_or_disguised_is_130(step: str, body: str, model: Path, tmp_path: Path):
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(output)]
    code = PRESS.format(step=step, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], text=True, capture_output=True, check=False
    )
    assert said(done.stderr) == [f"interrupted: '{output}' was not written"]
    assert done.returncode == 130
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_after_the_package_is_complete_says_so(model: Path, tmp_path: Path):
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(output)]
    code = PRESS.format(step="pipeline.Plugins.compile_finished", body="press()")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], text=True, capture_output=True, check=False
    )
    assert said(done.stderr) == [f"interrupted: '{output}' is complete and was written"]
    assert done.returncode == 130
    assert [file.name for file in tmp_path.iterdir()] == ["n.tvmpkg"]


@pytest.mark.parametrize("step", ["import", "layout", "schedule", "build", "verify"])
def test_ctrl_c_in_the_midst_of_a_step_is_130(step: str, model: Path, tmp_path: Path):
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(tmp_path / "n.tvmpkg")]
    command = [sys.executable, "-m", "tvmopt", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.rstrip().endswith(f"] {step}"):
                break
        time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        stdout, rest = process.communicate(timeout=60)
    assert said(rest) == [f"interrupted: '{tmp_path / 'n.tvmpkg'}' was not written"]
    assert process.returncode == 130
    assert stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_dataclass_is_made_is_130(model: Path, tmp_path: Path):
    output = tmp_path / "n.tvmpkg"
    (tmp_path / "pressed.py").write_text(
        PRESS.format(
            step="attempts.build", body="exec('os.kill(os.getpid(), 2); press()', globals())"
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pressed", "compile", str(model), "--dim", "N=1", "-o", str(output)],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert said(done.stderr) == [f"interrupted: '{output}' was not written"]
    assert done.returncode == 130


def test_ctrl_c_is_remembered_within_the_block_only():
    with remembered() as interrupt:
        interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.happened
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remembered() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt.happened
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    found: list[object] = []

    def look() -> None:
        with remembered():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
