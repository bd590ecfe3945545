"""Every kind of file that cannot be imported has an error of its own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import imported, model, node, run, value

from tvmopt import ModelError, ModelSource
from tvmopt.compiler.importer import import_model, read


def small_model() -> onnx.ModelProto:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    return model(
        [node("MatMul", ["x", "w"], ["y"], name="product")],
        [value("x", [2, 3])],
        [value("y", [2, 4])],
        {"w": weight},
    )


def import_file(path: Path) -> None:
    import_model(ModelSource(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file '.*none\.onnx'"):
        import_file(tmp_path / "none.onnx")


def test_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        import_file(path)


def test_directory_suggests_the_model_inside(tmp_path: Path) -> None:
    (tmp_path / "inner.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a directory") as caught:
        import_file(tmp_path)
    assert "inner.onnx" in (caught.value.hint or "")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file_is_called_truncated(tmp_path: Path, share: float) -> None:
    data = small_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="truncated or damaged"):
        import_file(path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"just some text that is long enough", "is not an ONNX model"),
        (bytes(range(256)), "is not an ONNX model"),
    ],
)
def test_other_files_are_not_taken_for_models(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=kind):
        import_file(path)


def test_unreadable_file_is_a_matter_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "closed.onnx"
    path.write_bytes(b"x")

    def refuse(_self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match="permission denied"):
        import_file(path)


def test_file_over_the_protobuf_limit_is_told_of_external_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.onnx"
    path.write_bytes(small_model().SerializeToString())
    monkeypatch.setattr(read, "PROTOBUF_LIMIT", 100)
    with pytest.raises(ModelError, match="more than a protobuf file can hold") as caught:
        import_file(path)
    assert "save_as_external_data" in (caught.value.hint or "")


def save_external(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(
        small_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def test_external_data_are_read(tmp_path: Path) -> None:
    result = import_model(ModelSource(save_external(tmp_path)))
    (actual,) = run(result, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(actual, np.tile([12.0, 15, 18, 21], (2, 1)))


def test_original_has_its_external_data_inside(tmp_path: Path) -> None:
    result = import_model(ModelSource(save_external(tmp_path)))
    onnx.checker.check_model(result.original())
    (weight,) = result.original().graph.initializer
    assert onnx.numpy_helper.to_array(weight)[2, 3] == 11


def test_missing_external_data_are_named(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"external data 'weights\.bin' of tensor 'w' are missing"):
        import_file(path)


def test_short_external_data_are_noticed(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ModelError, match="too short for tensor 'w'"):
        import_file(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = save_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_file(path)


def test_raw_data_of_the_wrong_length_are_noticed(tmp_path: Path) -> None:
    proto = small_model()
    proto.graph.initializer[0].raw_data = b"\0" * 8
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="tensor 'w' has 2 elements"):
        import_file(path)


def test_token_ids_stay_below_the_size_of_the_imported_table(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array([6]))),
        node("Reshape", ["ids", "shape"], ["flat"]),
        node("Gather", ["table", "flat"], ["y"]),
    ]
    table = np.zeros((30, 4), np.float32)
    proto = model(nodes, [value("ids", [2, 3], "int64")], [value("y", [6, 4])], {"table": table})
    assert imported(proto, tmp_path).input_ranges == {"ids": (0, 29)}
