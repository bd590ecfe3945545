"""Tensors in files: `.npz`, `.npy`, ONNX's `.pb`, and folders as the ONNX test suite has them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmopt.errors import InputError
from tvmopt.model import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    from tvmopt.compiler.package import Package
    from tvmopt.compiler.sample_inputs import Fill

    Array = npt.NDArray[Any]

_SUFFIXES = (".npz", ".npy", ".pb")


def read_inputs(texts: Iterable[str], specs: Sequence[TensorSpec]) -> "dict[str, Array]":
    """Reads what `--inputs` names: `FILE`, `NAME=FILE` or a folder `test_data_set_0`.

    A tensor whose file gives no name of an input goes to the first input that has none yet.

    Raises:
        InputError: a file that cannot be read, a name twice, or more tensors than inputs.
    """
    inputs: dict[str, Array] = {}
    unnamed: list[tuple[str, Array]] = []
    known = {spec.name for spec in specs}
    for text in texts:
        given, path = _split(text)
        for name, array, origin in _read(path):
            target = given if given is not None else name
            if target is None or (given is None and target not in known and path.suffix != ".npz"):
                unnamed.append((origin, array))
            elif target in inputs:
                raise InputError(f"input '{target}' is given twice, the second time by '{origin}'")
            else:
                inputs[target] = array
    free = [spec.name for spec in specs if spec.name not in inputs]
    for index, (origin, array) in enumerate(unnamed):
        if index >= len(free):
            message = f"'{origin}' is one tensor too many; the model's inputs are {_names(specs)}"
            raise InputError(message, "say which input it is for: --inputs NAME=FILE")
        inputs[free[index]] = array
    return inputs


def complete_inputs(
    package: "Package", texts: Iterable[str], fill: "Fill", seed: int
) -> "dict[str, Array]":
    """The inputs in files, and `fill` for those that no file gives.

    Raises:
        InputError: see `read_inputs`.
    """
    return {**package.sample_inputs(seed, fill), **read_inputs(texts, package.inputs)}


def write_outputs(path: Path, outputs: "dict[str, Array]") -> None:
    """Writes all outputs into one `.npz`, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    import os
    import tempfile

    import numpy as np

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            # Not `**outputs`: an output may be called `file`.
            _save_npz(file, outputs, np)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _save_npz(file: Any, outputs: "dict[str, Array]", np: Any) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def _split(text: str) -> tuple[str | None, Path]:
    name, equals, file = text.partition("=")
    if equals and name and not Path(text).exists():
        return name, Path(file)
    return None, Path(text)


def _read(path: Path) -> "list[tuple[str | None, Array, str]]":
    """Name (None if the file has none), array and file of each tensor."""
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise InputError(f"the input file '{path}' does not exist")
    if path.suffix not in _SUFFIXES:
        message = f"'{path}' is no file that tensors are read from; such are {', '.join(_SUFFIXES)}"
        raise InputError(message, "save it with numpy.savez('inputs.npz', NAME=array)")
    try:
        if path.suffix == ".pb":
            return [(*_read_pb(path), str(path))]
        return _read_numpy(path)
    except Exception as error:
        # numpy, zipfile and protobuf each raise their own for damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the input file '{path}' cannot be read: {reason}") from error


def _read_numpy(path: Path) -> "list[tuple[str | None, Array, str]]":
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        name = path.stem if path.suffix == ".npy" else None
        return [(name, loaded, str(path))]
    with loaded:
        return [(name, loaded[name], str(path)) for name in loaded.files]


def _read_pb(path: Path) -> "tuple[str | None, Array]":
    from onnx import TensorProto, numpy_helper

    tensor = TensorProto.FromString(path.read_bytes())
    if not tensor.data_type:
        raise ValueError("it holds no ONNX TensorProto")
    return tensor.name or None, numpy_helper.to_array(tensor)


def _read_folder(path: Path) -> "list[tuple[str | None, Array, str]]":
    files = sorted(
        (file for file in path.iterdir() if re.fullmatch(r"input_\d+\.(pb|npy)", file.name)),
        key=lambda file: int(file.stem.partition("_")[2]),
    )
    if not files:
        sets = sorted(path.glob("test_data_set_*"))
        hint = f"did you mean '{sets[0]}'?" if sets else None
        raise InputError(f"the folder '{path}' has no files input_0.pb, input_1.pb, ...", hint)
    return [tensor for file in files for tensor in _read(file)]


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"
