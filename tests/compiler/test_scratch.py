import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvmopt import TvmoptError
from tvmopt.compiler.output import check_output
from tvmopt.compiler.scratch import ROOM_BYTES, scratch_folder


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """A temporary directory and one for the output; `free` says how much room each has."""
    temporary, output = tmp_path / "temporary", tmp_path / "output"
    temporary.mkdir()
    output.mkdir()
    free = {temporary: ROOM_BYTES, output: ROOM_BYTES}
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path)]))
    return temporary, output, free


def test_intermediate_files_go_to_the_temporary_directory(disks):
    temporary, output, _ = disks
    assert scratch_folder(output / "a.tvmpkg") == temporary


def test_a_full_temporary_directory_is_passed_over(disks):
    temporary, output, free = disks
    free[temporary] = ROOM_BYTES - 1
    assert scratch_folder(output / "a.tvmpkg") == output


def test_without_room_anywhere_both_directories_are_named(disks):
    temporary, output, free = disks
    free.update({temporary: 0, output: 0})
    with pytest.raises(TvmoptError, match=f"free in '{temporary}' nor in '{output}'") as caught:
        check_output(output / "a.tvmpkg")
    assert "set TMPDIR" in str(caught.value.hint)
    assert list(output.iterdir()) == []


def test_a_package_without_output_needs_room_in_the_temporary_directory(disks, small):
    temporary, _, free = disks
    free[temporary] = 0
    with pytest.raises(TvmoptError, match=f"free in '{temporary}'"), small.draft():
        pass
    assert list(temporary.iterdir()) == []


def test_a_package_is_made_with_a_full_temporary_directory(disks, small):
    temporary, output, free = disks
    free[temporary] = 0
    temporary.chmod(0o500)
    small.package(output / "small.tvmpkg")
    assert [path.name for path in output.iterdir()] == ["small.tvmpkg"]
    assert list(temporary.iterdir()) == []


_COMPILED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import SmallModel
SmallModel(Path(sys.argv[2])).package(Path(sys.argv[2]) / "small.tvmpkg")
"""


def test_a_tiny_temporary_disk_does_not_end_the_process(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("not allowed to mount")
    try:
        command = [sys.executable, "-c", _COMPILED, str(Path(__file__).parent), str(tmp_path)]
        environment = {**os.environ, "TMPDIR": str(disk)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "small.tvmpkg").is_file()
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
