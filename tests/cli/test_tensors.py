"""Tensors come in from files and find their inputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal

from tvmopt import InputError, TensorSpec
from tvmopt.cli.tensors import read_inputs, write_outputs

A = np.arange(6, dtype="float32").reshape(2, 3)
B = np.array([7, 8], dtype="int64")
SPECS = [TensorSpec("a", (2, 3), "float32"), TensorSpec("b", (2,), "int64")]


def pb(path: Path, array: np.ndarray, name: str = "") -> Path:
    path.write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def check(found: dict[str, np.ndarray]) -> None:
    assert sorted(found) == ["a", "b"]
    assert_array_equal(found["a"], A, strict=True)
    assert_array_equal(found["b"], B, strict=True)


def test_an_npz_names_its_tensors(tmp_path: Path):
    np.savez(tmp_path / "in.npz", b=B, a=A)
    check(read_inputs([str(tmp_path / "in.npz")], SPECS))


def test_a_npy_called_like_an_input_is_that_input(tmp_path: Path):
    files = [npy(tmp_path / "b.npy", B), npy(tmp_path / "a.npy", A)]
    check(read_inputs(map(str, files), SPECS))


def test_a_pb_with_an_inputs_name_is_that_input(tmp_path: Path):
    files = [pb(tmp_path / "1.pb", B, "b"), pb(tmp_path / "2.pb", A, "a")]
    check(read_inputs(map(str, files), SPECS))


def test_tensors_without_a_name_fill_what_is_left_in_order(tmp_path: Path):
    files = [npy(tmp_path / "x.npy", A), pb(tmp_path / "y.pb", B, "other")]
    check(read_inputs(map(str, files), SPECS))
    named = [str(npy(tmp_path / "first.npy", B)), f"a={files[0]}"]
    check(read_inputs(named, SPECS))


def test_a_written_name_comes_before_the_files(tmp_path: Path):
    files = [npy(tmp_path / "b.npy", A), npy(tmp_path / "a.npy", B)]
    check(read_inputs([f"a={files[0]}", f"b={files[1]}"], SPECS))


def test_a_folder_of_the_onnx_test_suite_is_read_in_numeric_order(tmp_path: Path):
    specs = [TensorSpec(f"i{n}", (1,), "int64") for n in range(11)]
    for n in range(11):
        pb(tmp_path / f"input_{n}.pb", np.array([n]))
    pb(tmp_path / "output_0.pb", A)
    found = read_inputs([str(tmp_path)], specs)
    assert [int(found[spec.name][0]) for spec in specs] == list(range(11))


def test_an_unknown_name_in_an_npz_is_kept_for_the_model_to_refuse(tmp_path: Path):
    np.savez(tmp_path / "in.npz", c=A)
    assert list(read_inputs([str(tmp_path / "in.npz")], SPECS)) == ["c"]


def refused(texts: list[str], specs: list[TensorSpec] = SPECS) -> InputError:
    with pytest.raises(InputError) as caught:
        read_inputs(texts, specs)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_file_is_named(tmp_path: Path):
    assert "gone.npy' does not exist" in str(refused([str(tmp_path / "gone.npy")]))


def test_another_kind_of_file_is_refused_with_those_that_are_read(tmp_path: Path):
    (tmp_path / "x.txt").write_text("1 2 3")
    assert ".npz, .npy, .pb" in str(refused([str(tmp_path / "x.txt")]))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pb"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(suffix: str, content: bytes, tmp_path: Path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert f"the input file '{path}' cannot be read: " in str(refused([str(path)]))


def test_python_objects_are_not_loaded(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "cannot be read" in str(refused([str(tmp_path / "x.npy")]))


def test_a_tensor_too_many_is_refused(tmp_path: Path):
    file = str(npy(tmp_path / "x.npy", A))
    error = refused([file, file, file])
    assert "one tensor too many" in str(error)
    assert "NAME=FILE" in (error.hint or "")


def test_an_input_given_twice_is_refused(tmp_path: Path):
    file = npy(tmp_path / "x.npy", A)
    assert "input 'a' is given twice" in str(refused([f"a={file}", f"a={file}"]))


def test_a_folder_without_inputs_points_at_the_test_data_in_it(tmp_path: Path):
    (tmp_path / "test_data_set_0").mkdir()
    error = refused([str(tmp_path)])
    assert "has no files input_0.pb" in str(error)
    assert "test_data_set_0" in (error.hint or "")


def test_outputs_are_written_and_read_back_whatever_their_names(tmp_path: Path):
    outputs = {"file": A, "a/b:0": B}
    write_outputs(tmp_path / "out.npz", outputs)
    check_names = read_inputs([str(tmp_path / "out.npz")], SPECS)
    assert_array_equal(check_names["file"], A, strict=True)
    assert_array_equal(check_names["a/b:0"], B, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "out.npz"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"(?i)object"):
        write_outputs(path, {"x": np.array([{}], dtype=object)})
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]
