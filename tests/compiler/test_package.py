import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tvmopt import ModelError, PackageError, TvmoptError, UsageError
from tvmopt.compiler.archive import LIBRARY, MANIFEST, WEIGHTS, ArchiveReader, ArchiveWriter
from tvmopt.compiler.manifest import Manifest, read_manifest
from tvmopt.compiler.output import check_output
from tvmopt.compiler.package import Package
from tvmopt.compiler.verify import verify_draft

# Sums of 8 products of standard normal float32, in another order: 8 * 2^-24 * about 10.
ATOL = 1e-5


def manifest_of(path: Path) -> Manifest:
    with ArchiveReader(path) as reader:
        return read_manifest(reader)


def rewritten(source: Path, path: Path, change, extra: dict[str, bytes] | None = None) -> Path:
    """A copy of a package with a changed manifest, its hash in order, and further members."""
    reader = ArchiveReader(source)
    manifest = json.loads(reader.manifest())
    change(manifest)
    with path.open("w+b") as file:
        writer = ArchiveWriter(file)
        for name in (LIBRARY, WEIGHTS):
            writer.add(name, [bytes(reader.view(name))])
        for name, data in (extra or {}).items():
            writer.add(name, [data])
        writer.finish(json.dumps(manifest).encode())
    return path


def test_a_loaded_package_computes_what_was_compiled(small, tmp_path):
    small.package(tmp_path / "small.tvmpkg")
    package = Package.load(tmp_path / "small.tvmpkg")
    inputs = package.sample_inputs()
    np.testing.assert_allclose(package.run(inputs)["y"], small.expected(inputs), atol=ATOL)


def test_the_published_package_runs_without_loading_it_again(small, tmp_path):
    package = small.package(tmp_path / "small.tvmpkg")
    inputs = package.sample_inputs(seed=3)
    np.testing.assert_allclose(package.run(inputs)["y"], small.expected(inputs), atol=ATOL)


def test_the_manifest_tells_tensors_target_and_layers(small_package):
    assert [spec.name for spec in small_package.inputs] == ["x", "ids"]
    assert small_package.outputs[0].shape == (4, 16)
    assert small_package.target == "any-cpu"
    assert [layer.nodes for layer in small_package.report.layers][-1] == ("relu",)
    assert small_package.manifest.input_ranges == {"ids": (0, 9)}


def test_a_manifest_without_the_hash_of_its_model_still_loads(small_package_path, tmp_path):
    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", lambda m: m.pop("model_sha256"))
    Package.load(path).manifest.check_model(small_package_path)


def test_a_manifest_without_an_account_of_quantization_still_loads(small_package_path, tmp_path):
    def change(manifest):
        del manifest["report"]["quantization"]

    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", change)
    assert Package.load(path).report.quantization == []


def test_the_manifest_knows_the_model_by_its_content(small_package, tmp_path):
    source, other = small_package.path.with_name("small.onnx"), tmp_path / "small.onnx"
    small_package.manifest.check_model(source)
    other.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="is not the model") as caught:
        small_package.manifest.check_model(other)
    assert "'small.onnx'" in str(caught.value.hint)


def test_the_manifest_survives_json(small_package, small_package_path):
    assert manifest_of(small_package_path) == small_package.manifest


def test_the_same_model_makes_the_same_library_and_weights(small, tmp_path):
    first = small.package(tmp_path / "a.tvmpkg").manifest
    second = small.package(tmp_path / "b.tvmpkg").manifest
    assert first.members == second.members
    second.report.seconds = first.report.seconds  # nothing else of the manifest varies
    assert first == second


def test_weights_are_used_where_they_lie_in_the_file(small_package):
    offsets = [weight.offset % 64 for weight in small_package.manifest.weights]
    assert offsets == [0, 0]
    weights = small_package.executor._weights[0]
    start = small_package.executor._weight_bytes.ctypes.data
    assert (
        np.from_dlpack(weights[1]).ctypes.data == start + small_package.manifest.weights[1].offset
    )


def test_a_package_without_output_is_deleted_with_the_object(small):
    with small.draft() as draft:
        package = draft.publish()
    path = package.path
    assert path.exists()
    del package
    assert not path.exists()


def test_publishing_replaces_an_older_package_and_keeps_to_the_umask(small, tmp_path):
    path = tmp_path / "small.tvmpkg"
    path.write_text("older")
    small.package(path)
    assert Package.load(path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind_and_the_older_package_as_it_was(small, tmp_path, error):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "small.tvmpkg").write_text("older")
    with pytest.raises(error), small.draft(folder / "small.tvmpkg"):
        raise error
    assert [path.name for path in folder.iterdir()] == ["small.tvmpkg"]
    assert (folder / "small.tvmpkg").read_text() == "older"


def test_a_failure_while_the_draft_is_written_leaves_nothing_behind(small, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    draft = small.draft(folder / "small.tvmpkg")

    def interrupted():
        yield b"half"
        raise KeyboardInterrupt

    monkeypatch.setattr(draft, "_weight_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt), draft:
        pass
    assert list(folder.iterdir()) == []


def test_a_future_format_names_the_version_to_install(small_package_path, tmp_path):
    def change(manifest):
        manifest.update(format_version=99, tvmopt_version="7.5", novelty=[])

    path = rewritten(small_package_path, tmp_path / "new.tvmpkg", change, {"novelty.bin": b""})
    with pytest.raises(PackageError, match="has format 99") as caught:
        Package.load(path)
    assert caught.value.hint == "install the tvmopt that made it: pip install 'tvmopt>=7.5'"


def test_a_future_format_of_this_version_asks_for_a_newer_one(small_package_path, tmp_path):
    path = rewritten(
        small_package_path, tmp_path / "a.tvmpkg", lambda m: m.update(format_version=99)
    )
    with pytest.raises(PackageError, match="has format 99") as caught:
        Package.load(path)
    assert caught.value.hint == "install a newer tvmopt"


def test_another_tvm_is_named(small_package_path, tmp_path):
    def change(manifest):
        manifest["tvm_version"] = "0.19.0"

    path = rewritten(small_package_path, tmp_path / "old.tvmpkg", change)
    with pytest.raises(PackageError, match=r"made with TVM 0\.19\.0, and TVM .* is installed") as e:
        Package.load(path)
    assert "apache-tvm==0.19.0" in str(e.value.hint)


def test_a_post_release_of_the_same_tvm_is_accepted(small_package_path, tmp_path):
    def change(manifest):
        manifest["tvm_version"] = ".".join(manifest["tvm_version"].split(".")[:2]) + ".9"

    assert Package.load(rewritten(small_package_path, tmp_path / "a.tvmpkg", change))


def test_a_foreign_isa_names_what_the_cpu_lacks_and_a_target_that_fits(
    small_package_path, tmp_path
):
    def change(manifest):
        manifest["target"].update(name="x86-next", isa=["sse4.2", "avx99", "amx-next"])

    path = rewritten(small_package_path, tmp_path / "foreign.tvmpkg", change)
    with pytest.raises(PackageError, match="this CPU lacks avx99, amx-next") as caught:
        Package.load(path)
    assert "--target x86" in str(caught.value.hint)


def test_a_foreign_architecture_is_named(small_package_path, tmp_path):
    def change(manifest):
        manifest["target"].update(name="rpi4", arch="mips64")

    path = rewritten(small_package_path, tmp_path / "foreign.tvmpkg", change)
    with pytest.raises(PackageError, match=r"is for mips64 \('rpi4'\)"):
        Package.load(path)


def test_what_is_compiled_for_another_cpu_is_written_but_not_run(small, tmp_path):
    small.with_backend(isa=lambda _self: ("avx99",))
    with small.draft(tmp_path / "a.tvmpkg") as draft:
        assert verify_draft(draft, draft.imported, draft.report) is None
        package = draft.publish()
    assert "not verified: this machine cannot run" in package.report.remarks[-1].message
    assert manifest_of(package.path).target.isa == ("avx99",)
    with pytest.raises(PackageError, match="this CPU lacks avx99"):
        package.run(package.sample_inputs(), threads=1)


def test_a_foreign_package_can_still_be_inspected(small_package_path, tmp_path):
    def change(manifest):
        manifest["target"].update(arch="mips64")

    path = rewritten(small_package_path, tmp_path / "foreign.tvmpkg", change)
    assert manifest_of(path).target.arch == "mips64"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "notes.txt"])
def test_a_member_that_is_no_part_of_a_package_is_refused(small_package_path, tmp_path, name):
    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", lambda m: None, {name: b"x"})
    with pytest.raises(PackageError, match="which is no part of a package"):
        Package.load(path)
    assert not (tmp_path.parent.parent / "escaped").exists()


@pytest.mark.parametrize("offset", [-64, 1, 1 << 40])
def test_weights_outside_the_file_are_refused(small_package_path, tmp_path, offset):
    def change(manifest):
        manifest["weights"][0]["offset"] = offset

    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", change)
    with pytest.raises(PackageError, match="table of weights"):
        Package.load(path)


@pytest.mark.parametrize("key", ["inputs", "members", "target", "report", "weights", "model"])
def test_an_incomplete_manifest_is_refused(small_package_path, tmp_path, key):
    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", lambda m: m.pop(key))
    with pytest.raises(PackageError, match=f"in its manifest, '{key}' is missing") as caught:
        Package.load(path)
    assert "compile the model again" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tvm_version": 27}, "'tvm_version' must be text, not 27"),
        ({"model": None}, "'model' must be text, not None"),
        ({"target": []}, "'target' must be an object"),
        ({"weights": {}}, "'weights' must be a list"),
        ({"weights": [{"dtype": "float32", "shape": "x", "offset": 0}]}, r"'weights\[0\]\.shape'"),
        ({"input_ranges": {"ids": [0]}}, r"'input_ranges\.ids' must be a list of 2"),
        ({"members": {"library.so": {"size_bytes": 1}}}, r"'members\.library\.so\.sha256' is mis"),
        ({"report": {"passes": [1], "remarks": [], "layers": []}}, r"'report\.passes\[0\]'"),
        ({"verification": "yes"}, "'verification' must be an object"),
    ],
)
def test_a_manifest_with_wrong_types_is_refused(small_package_path, tmp_path, changes, message):
    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", lambda m: m.update(changes))
    with pytest.raises(PackageError, match=message):
        Package.load(path)


@pytest.mark.parametrize("changes", [{"shape": [-1, 16]}, {"shape": [1 << 32, 1 << 32]}])
def test_weights_of_impossible_shapes_are_refused(small_package_path, tmp_path, changes):
    path = rewritten(
        small_package_path, tmp_path / "a.tvmpkg", lambda m: m["weights"][0].update(changes)
    )
    with pytest.raises(PackageError, match="table of weights"):
        Package.load(path)


def test_weights_of_an_unknown_type_are_refused(small_package_path, tmp_path):
    path = rewritten(
        small_package_path, tmp_path / "a.tvmpkg", lambda m: m["weights"][0].update(dtype="f99")
    )
    with pytest.raises(PackageError, match="unknown type 'f99'"):
        Package.load(path)


def test_what_a_newer_tvmopt_adds_to_the_manifest_is_passed_over(small_package_path, tmp_path):
    path = rewritten(small_package_path, tmp_path / "a.tvmpkg", lambda m: m.update(novelty=1))
    assert Package.load(path)


def test_another_zip_is_no_package(tmp_path):
    path = tmp_path / "a.zip"
    with path.open("w+b") as file:
        writer = ArchiveWriter(file)
        writer.finish(b"[]")
    with pytest.raises(PackageError, match="its manifest is none"):
        Package.load(path)


def test_one_changed_byte_of_a_weight_is_refused(small_package_path, tmp_path):
    data = bytearray(small_package_path.read_bytes())
    reader = ArchiveReader(small_package_path)
    start, _ = reader._spans[WEIGHTS]
    data[start + 100] ^= 1
    path = tmp_path / "a.tvmpkg"
    path.write_bytes(data)
    with pytest.raises(PackageError, match=r"'weights\.bin' does not have the SHA-256") as caught:
        Package.load(path)
    assert caught.value.hint == "copy or download it again"
    assert MANIFEST in reader.names


def test_an_output_in_no_directory_is_refused_before_compiling(tmp_path):
    with pytest.raises(TvmoptError, match="does not exist") as caught:
        check_output(tmp_path / "nowhere" / "a.tvmpkg")
    assert caught.value.hint == f"mkdir -p '{tmp_path / 'nowhere'}'"


def test_an_output_that_is_a_directory_is_refused_before_compiling(tmp_path):
    with pytest.raises(TvmoptError, match="it is a directory"):
        check_output(tmp_path)


def test_a_device_is_not_replaced():
    with pytest.raises(TvmoptError, match="it is a device"):
        check_output(Path("/dev/null"))


def test_standard_output_is_refused():
    with pytest.raises(UsageError, match="standard output"):
        check_output(Path("-"))


def test_a_possible_output_is_accepted_without_a_trace(tmp_path):
    check_output(tmp_path / "a.tvmpkg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_refused_before_compiling(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TvmoptError, match="Permission denied"):
        check_output(tmp_path / "a.tvmpkg")


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system in memory, with options; where that is allowed."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount")
        if done.returncode:
            pytest.skip("not allowed to mount")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_half_written_stays(small, mounted):
    tiny_disk = mounted("size=16k")
    with pytest.raises(TvmoptError, match="No space left on device") as caught:
        small.package(tiny_disk / "small.tvmpkg")
    assert "make room" in str(caught.value.hint)
    assert list(tiny_disk.iterdir()) == []


def test_a_full_temporary_directory_is_named_when_a_package_is_loaded(
    small_package_path, mounted, monkeypatch
):
    folder = mounted("size=16k")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(TvmoptError, match="No space left on device") as caught:
        Package.load(small_package_path)
    assert caught.value.hint == f"make room in '{folder}', or set TMPDIR to another directory"
    assert list(folder.iterdir()) == []


def test_a_read_only_disk_is_refused_before_compiling(mounted):
    with pytest.raises(TvmoptError, match="Read-only file system") as caught:
        check_output(mounted("ro") / "small.tvmpkg")
    assert caught.value.hint == "write elsewhere with -o"


def test_a_temporary_directory_without_execution_is_named(small_package_path, mounted, monkeypatch):
    folder = mounted("noexec")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(PackageError, match="library cannot be loaded") as caught:
        Package.load(small_package_path)
    assert f"'{folder}' is mounted noexec: set TMPDIR" in str(caught.value.hint)


def test_a_write_that_fails_late_is_told_and_nothing_half_written_stays(
    small, tmp_path, monkeypatch
):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TvmoptError, match=r"cannot write .*small\.tvmpkg.*No space left"):
        small.package(folder / "small.tvmpkg")
    assert list(folder.iterdir()) == []


_INTERRUPTED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import SmallModel
folder = Path(sys.argv[2])
(folder / "out").mkdir()
with SmallModel(folder).draft(folder / "out" / "small.tvmpkg"):
    print("drafted", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-c", _INTERRUPTED, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"drafted\n"
        assert len(list((tmp_path / "out").iterdir())) == 1
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert process.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []


def test_options_are_kept_in_the_manifest(small, tmp_path):
    small.request = replace(small.request, disabled=frozenset({"layout"}))
    package = small.package(tmp_path / "a.tvmpkg")
    assert package.manifest.options["disabled_passes"] == ["layout"]
