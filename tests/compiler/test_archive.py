import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt import PackageError
from tvmopt.compiler.archive import ALIGNMENT, MANIFEST, ArchiveReader, ArchiveWriter, Member


def write(path: Path, members: dict[str, bytes], manifest: bytes = b"{}") -> dict[str, Member]:
    with path.open("w+b") as file:
        writer = ArchiveWriter(file)
        made = {name: writer.add(name, [data]) for name, data in members.items()}
        writer.finish(manifest)
    return made


def check_all(path: Path, members: dict[str, Member]) -> None:
    with ArchiveReader(path) as reader:
        reader.manifest()
        for name, member in members.items():
            reader.check(name, member)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=4), name=st.text("ab", min_size=1))
def test_every_member_begins_at_a_multiple_of_64_bytes(tmp_path_factory, sizes, name):
    path = tmp_path_factory.mktemp("archive") / "a.zip"
    contents = {f"{name}{i}": bytes([i]) * size for i, size in enumerate(sizes)}
    made = write(path, contents)
    reader = ArchiveReader(path)
    for key, data in contents.items():
        view = reader.view(key)
        assert bytes(view) == data
        if data:
            assert np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
        reader.check(key, made[key])


def test_any_zip_program_reads_the_archive(tmp_path):
    write(tmp_path / "a.zip", {"one": b"1" * 100, "two": b""})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("one") == b"1" * 100


def test_the_same_members_make_the_same_bytes(tmp_path):
    write(tmp_path / "a.zip", {"one": b"1"})
    write(tmp_path / "b.zip", {"one": b"1"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PackageError, match=r"there is no package '.*nowhere\.tvmpkg'"):
        ArchiveReader(tmp_path / "nowhere.tvmpkg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"\x08\x07 an ONNX file?", "not a package"), (b"PK", "not a package")],
)
def test_what_is_no_archive_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.tvmpkg"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=reason):
        ArchiveReader(path)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(PackageError, match="cannot be read: Is a directory"):
        ArchiveReader(tmp_path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    path = tmp_path / "a.tvmpkg"
    made = write(path, {"weights.bin": bytes(range(256)) * 40})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(PackageError):
        check_all(path, made)


@pytest.mark.parametrize("missing", [1, 10, 87])
def test_an_archive_that_ends_a_little_early_is_said_to_be_cut_short(tmp_path, missing):
    path = tmp_path / "a.tvmpkg"
    write(path, {"weights.bin": bytes(range(256)) * 40})
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(PackageError, match=f"it is cut short by {missing} bytes"):
        ArchiveReader(path)


@pytest.mark.parametrize("appended", [b"x", b"\0" * 70000, b"PK\3\4 and more"])
def test_bytes_after_the_end_are_refused(tmp_path, appended):
    path = tmp_path / "a.tvmpkg"
    write(path, {"weights.bin": b"1"})
    path.write_bytes(path.read_bytes() + appended)
    with pytest.raises(PackageError):
        ArchiveReader(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("archive") / "a.tvmpkg"
    content = bytes(range(200))
    made = write(path, {"weights.bin": content}, b'{"some": "manifest"}')
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        check_all(path, made)
    except PackageError:
        return
    with ArchiveReader(path) as reader:  # it hit padding, a date, an attribute
        assert bytes(reader.view("weights.bin")) == content
        assert reader.manifest() == b'{"some": "manifest"}'


def test_a_member_that_was_replaced_is_refused(tmp_path):
    made = write(tmp_path / "a.zip", {"library.so": b"ours"})
    write(tmp_path / "b.zip", {"library.so": b"evil"})
    with pytest.raises(PackageError, match=r"'library\.so' does not have the SHA-256"):
        check_all(tmp_path / "b.zip", made)


def test_a_manifest_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    write(path, {}, b'{"isa": ["avx512f"]}')
    with zipfile.ZipFile(path) as archive:
        comment = archive.comment
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, b'{"isa": []}')
        archive.comment = comment
    with pytest.raises(PackageError, match="manifest was changed"):
        ArchiveReader(path).manifest()


def test_a_compressed_member_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("library.so", b"0" * 1000)
    with pytest.raises(PackageError, match="compressed or encrypted"):
        ArchiveReader(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("library.so", b"checked")
        archive.writestr("library.so", b"loaded")
    with pytest.raises(PackageError, match="two members"):
        ArchiveReader(path)


def test_an_abandoned_archive_writes_nothing_more():
    file = io.BytesIO()
    writer = ArchiveWriter(file)
    writer.add("one", [b"1"])
    size = len(file.getvalue())
    writer.abandon()
    del writer
    assert len(file.getvalue()) == size
