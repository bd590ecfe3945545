"""The module after each pass, in files."""

import errno
import os
from pathlib import Path

import pytest
import tvm

from tvmopt import TvmoptError
from tvmopt.compiler.dump import dump_module

MODULE = tvm.IRModule({})


def test_a_dump_is_one_file_named_by_its_step(tmp_path):
    dump_module(tmp_path / "a" / "b", 3, "layout", MODULE)
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["03_layout.py"]
    assert "class Module" in (tmp_path / "a" / "b" / "03_layout.py").read_text()


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    write = Path.write_text

    def full(self, text, **options):
        write(self, text[:10], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TvmoptError, match=r"03_layout.py' \(--dump-dir\): No space left") as caught:
        dump_module(tmp_path, 3, "layout", MODULE)
    assert caught.value.hint.startswith(f"make room in '{tmp_path}'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_in_place_of_the_directory_is_named(below, tmp_path):
    (tmp_path / "ir").touch()
    folder = tmp_path / "ir" / below
    with pytest.raises(TvmoptError, match=r"ir.* \(--dump-dir\)") as caught:
        dump_module(folder, 0, "import", MODULE)
    assert "is for a directory" in caught.value.hint


def test_a_directory_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / "00_import.py").mkdir()
    with pytest.raises(TvmoptError, match=r"00_import.py' \(--dump-dir\): Is a directory"):
        dump_module(tmp_path, 0, "import", MODULE)
    assert [file.name for file in tmp_path.iterdir()] == ["00_import.py"]
