"""Calibration data: cut to batches, streamed, and refused where ranges would be wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from tvmopt import CalibrationSource, Dataset, InputError, TensorSpec, UsageError, hookimpl
from tvmopt.compiler.calibration_data import Batches
from tvmopt.plugins import Plugins

X = TensorSpec("x", (2, 3), "float32")
IDS = TensorSpec("ids", (2,), "int64")
SCALE = TensorSpec("scale", (), "float32")


@dataclass(frozen=True)
class Counting(Dataset):
    """Rows of one number each."""

    name: ClassVar[str] = "counting"
    description: ClassVar[str] = "for tests"
    count: int = 4

    def samples(self, inputs: Sequence[TensorSpec]) -> Iterator[Mapping[str, Any]]:
        for number in range(self.count):
            yield {"x": np.full((1, 3), number, np.float32)}


def with_counting() -> Plugins:
    plugin = ModuleType("plugin")
    plugin.tvmopt_register_datasets = hookimpl(lambda: [Counting])  # pyright: ignore[reportAttributeAccessIssue]
    return Plugins.of(plugin=plugin)


def batches(data: Path | str, *inputs: TensorSpec, samples: int = 0) -> Batches:
    return Batches.open(CalibrationSource(data, samples=samples), with_counting(), inputs)


def rows(count: int, width: int = 3) -> Any:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_a_file_is_cut_to_the_models_batch(tmp_path: Path, save_as: Any):
    save_as(tmp_path / "data.npz", x=rows(6), ids=np.arange(6))
    found = list(batches(tmp_path / "data.npz", X, IDS))
    np.testing.assert_array_equal(np.concatenate([one["x"] for one in found]), rows(6))
    assert [one["ids"].tolist() for one in found] == [[0, 1], [2, 3], [4, 5]]


def test_rows_that_are_whole_inputs_are_batches_of_their_own(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(6).reshape(3, 2, 3), scale=np.ones(3, np.float32))
    found = list(batches(path, X, SCALE))
    assert [one["x"].shape for one in found] == [(2, 3)] * 3
    assert [one["scale"].shape for one in found] == [()] * 3


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path):
    for name, number in (("b", 1), ("a", 0), ("c", 2)):
        np.save(tmp_path / f"{name}.npy", rows(3) + number)
    (tmp_path / "readme.txt").write_text("no data")
    found = batches(tmp_path, X)
    values = np.concatenate([one["x"] for one in found])
    # Nine rows: batches of two go across files, and the last row is left over.
    np.testing.assert_array_equal(values, np.concatenate([rows(3) + n for n in range(3)])[:8])
    assert (found.count, found.dropped) == (4, 1)
    assert found.remarks() == ["1 samples of calibration data fill no batch: left out"]


def test_samples_of_several_inputs_in_a_folder(tmp_path: Path):
    for index in range(4):
        save(tmp_path / f"{index}.npz", x=rows(1) + index, ids=np.array([index]))
    found = list(batches(tmp_path, X, IDS))
    assert [one["ids"].tolist() for one in found] == [[0, 1], [2, 3]]


def test_a_registered_data_set_is_found_by_its_name_and_options():
    assert len(list(batches("counting:count=10", X))) == 5
    with pytest.raises(UsageError, match="no data set is called 'countin'") as caught:
        batches("countin", X)
    assert caught.value.hint == "did you mean 'counting'?"


def test_at_most_so_many_samples_are_read(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(20))
    found = batches(path, X, samples=7)
    assert len(list(found)) == 3
    assert found.dropped == 0


def test_each_iteration_reads_the_data_again(tmp_path: Path):
    found = batches(save(tmp_path / "data.npz", x=rows(4)), X)
    assert len(list(found)) == len(list(found)) == 2


def test_an_array_in_a_file_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "data.npz", x=rows(1000))
    read: list[int] = []
    plain = np.frombuffer

    def spy(data: bytes, *rest: Any) -> Any:
        read.append(len(data))
        return plain(data, *rest)

    monkeypatch.setattr(np, "frombuffer", spy)
    next(iter(batches(path, X)))
    assert max(read) == 12  # one row of three float32
    assert len(read) <= 3


BAD: list[tuple[dict[str, Any], str, str | None]] = [
    ({"x": rows(0)}, "has no samples", None),
    ({"x": rows(1)}, "has 1 samples, and the model takes 2 at a time", None),
    ({"y": rows(4)}, "no input of the model is called 'y'; there is x", None),
    ({"x": rows(4, 5)}, "samples of input 'x' have shape [5], expected [3]", "counts samples"),
    ({"x": rows(1)[0]}, "samples of input 'x' have shape [], expected [3]", "array[numpy.newaxis]"),
    ({"x": rows(4).astype(np.float64)}, "dtype float64, expected float32", "astype('float32')"),
    ({"x": np.array([["a"]], dtype=object)}, "cannot be read", None),
    ({"x": np.asfortranarray(rows(4))}, "Fortran's order", None),
]


@pytest.mark.parametrize(("arrays", "message", "hint"), BAD)
def test_data_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str, hint: str | None
):
    path = save(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError) as caught:
        list(batches(path, X))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert hint is None or hint in (caught.value.hint or "")


def test_an_input_that_no_array_is_for_is_named(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(4))
    with pytest.raises(InputError, match="input 'ids' is missing"):
        list(batches(path, X, IDS))


def test_inputs_with_unequal_numbers_of_samples_are_refused(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(8), ids=np.arange(4))
    with pytest.raises(InputError, match="fewer samples of input 'ids' than of 'x'"):
        list(batches(path, X, IDS))


@pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "an infinity")])
def test_the_sample_that_is_not_finite_is_named(tmp_path: Path, bad: float, what: str):
    data = rows(6)
    data[3, 1] = bad
    path = save(tmp_path / "data.npz", x=data)
    with pytest.raises(InputError, match=f"input 'x' has {what} in sample 3$"):
        list(batches(path, X))


def test_damaged_and_missing_files_are_named(tmp_path: Path):
    path = tmp_path / "data.npz"
    with pytest.raises(UsageError, match="do not exist"):
        batches(path, X)
    path.write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="cannot be read: File is not a zip file"):
        list(batches(path, X))
    text = tmp_path / "data.txt"
    text.write_text("1 2 3")
    with pytest.raises(InputError, match=r"are no \.npz or \.npy file"):
        list(batches(text, X))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \.npz or \.npy files"):
        list(batches(tmp_path / "empty", X))


def test_one_array_is_not_enough_for_two_inputs(tmp_path: Path):
    np.save(tmp_path / "x.npy", rows(4))
    with pytest.raises(InputError, match="is one array, and the model has the inputs x, ids"):
        list(batches(tmp_path / "x.npy", X, IDS))


def test_a_single_batch_and_constant_data_are_remarked_upon(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=np.ones((2, 3), np.float32))
    found = batches(path, X)
    list(found)
    assert found.remarks() == [
        "there is one batch of calibration data: ranges hold for it alone",
        "input 'x' is 1 in all calibration data",
    ]


def labelled(path: Path, *inputs: TensorSpec) -> list[dict[str, Any]]:
    source = CalibrationSource(path)
    return list(Batches.open(source, with_counting(), inputs, with_labels=True))


def test_arrays_that_are_no_inputs_are_labels_cut_as_samples_are(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(6), labels=np.arange(6), seed=np.array(3))
    found = labelled(path, X)
    assert [sorted(one) for one in found] == [["labels", "x"]] * 3
    assert [one["labels"].tolist() for one in found] == [[0, 1], [2, 3], [4, 5]]


def test_labels_of_whole_inputs_are_whole_too(tmp_path: Path):
    path = save(
        tmp_path / "data.npz", x=rows(4).reshape(2, 2, 3), labels=np.arange(4).reshape(2, 2)
    )
    assert [one["labels"].tolist() for one in labelled(path, X)] == [[0, 1], [2, 3]]


def test_labels_that_are_too_few_are_an_error(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(6), labels=np.arange(4))
    with pytest.raises(InputError, match="fewer samples of 'labels' than of 'x'"):
        labelled(path, X)


def test_labels_are_no_calibration_data(tmp_path: Path):
    path = save(tmp_path / "data.npz", x=rows(6), labels=np.arange(6))
    with pytest.raises(InputError, match="labels"):
        list(batches(path, X))
