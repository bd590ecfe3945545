"""Progress goes to stderr: lines where it is no terminal, a bar where it is."""

import os
import pty
import subprocess
import sys

import pytest

from tvmopt.cli.progress import Rounds, Steps


def test_steps_are_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    with Steps(["import", "build"]) as progress:
        progress("import")
        progress("build")
    captured = capsys.readouterr()
    assert captured.err == "[1/2] import\n[2/2] build\n"
    assert captured.out == ""


def test_steps_that_nobody_expected_and_steps_left_out_are_counted(
    capsys: pytest.CaptureFixture[str],
):
    with Steps(["import", "measure", "verify", "package"]) as progress:
        for name in ("import", "build again", "verify", "package"):
            progress(name)
    lines = ["[1/4] import", "[2/5] build again", "[3/4] verify", "[4/4] package"]
    assert capsys.readouterr().err.splitlines() == lines


def test_each_step_and_each_detail_is_a_chance_to_stop():
    def stop() -> None:
        raise KeyboardInterrupt

    with Steps(["import"], stop) as progress:
        with pytest.raises(KeyboardInterrupt):
            progress("import")
        with pytest.raises(KeyboardInterrupt):
            progress.detail("batch 1")


def test_rounds_are_announced_in_one_line(capsys: pytest.CaptureFixture[str]):
    with Rounds("measuring tvmopt", 3) as progress:
        for index in range(3):
            progress(index + 1)
    assert capsys.readouterr().err == "measuring tvmopt, 3 rounds\n"


ON_A_TERMINAL = """
import time
from tvmopt.cli.progress import Steps
with Steps(["import", "build", "package"]) as progress:
    for name in ("import", "build", "package"):
        progress(name)
        time.sleep(0.6)
print("the result")
"""


def test_a_terminal_sees_a_bar_with_the_time_left_and_stdout_only_the_result():
    reader, writer = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL],
        stdout=subprocess.PIPE,
        stderr=writer,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        text=True,
        check=True,
    )
    os.close(writer)
    shown = os.read(reader, 1 << 16).decode(errors="replace")
    os.close(reader)
    assert done.stdout == "the result\n"
    assert "build" in shown
    assert "0:00:" in shown
    assert "[1/3]" not in shown


def test_details_are_lines_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 0.0
    monkeypatch.setattr("tvmopt.cli.progress.time.monotonic", lambda: now)
    with Steps(["calibrate"]) as progress:
        progress("calibrate")
        for sample in range(1, 13):
            now += 1.0
            progress.detail(f"batch {sample}")
    assert capsys.readouterr().err == "[1/1] calibrate\n      batch 6\n      batch 12\n"
