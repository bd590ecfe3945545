import importlib.util

import pytest

from tvmopt import MissingPackageError, TvmoptError
from tvmopt.compiler.linking import check_machine, export_library, find_linker


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any compiler."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    return tmp_path


def program(folder, name, script="exit 0"):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_linker_the_error_says_what_to_install(bare):
    with pytest.raises(MissingPackageError, match="no C compiler") as caught:
        find_linker()
    assert "pip install ziglang" in str(caught.value.hint)


def test_a_c_compiler_is_found(bare):
    path = program(bare, "clang")
    assert find_linker() == [path, "-fPIC"]


def test_cc_from_the_environment_comes_first(bare, monkeypatch):
    program(bare, "gcc")
    program(bare, "my-cc")
    monkeypatch.setenv("CC", "my-cc -m64")
    assert find_linker() == ["my-cc", "-m64", "-fPIC"]


def test_ziglang_stands_in_for_a_compiler(bare, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ziglang")
    assert find_linker()[1:] == ["-m", "ziglang", "cc"]


def test_a_linker_that_fails_is_quoted(small, bare, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", program(bare, "bad-cc", "echo 'no such option' >&2; exit 1"))
    executable = small.draft().built.executable
    with pytest.raises(TvmoptError, match="failed to link the library: no such option"):
        export_library(executable, tmp_path / "library.so")


def test_a_library_for_another_machine_is_noticed(tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little"))
    check_machine(library, "aarch64")
    with pytest.raises(AssertionError, match="for aarch64, not for x86_64"):
        check_machine(library, "x86_64")


def test_a_linker_without_room_is_told_with_the_folder(small, bare, monkeypatch, tmp_path):
    message = "ld: final link failed: No space left on device"
    script = f"echo '{message}' >&2; echo 'collect2: error: ld returned 1 exit status' >&2; exit 1"
    monkeypatch.setenv("CC", program(bare, "full-cc", script))
    with pytest.raises(TvmoptError, match="No space left on device") as caught:
        export_library(small.draft().built.executable, tmp_path / "library.so")
    assert f"'{tmp_path.parent}' is full" in str(caught.value.hint)
