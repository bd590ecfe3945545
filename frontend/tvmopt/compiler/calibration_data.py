"""Calibration data as batches of the model's inputs, read one after the other."""

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tvmopt.calibration import CalibrationSource, Dataset
from tvmopt.compiler.executor import check_inputs
from tvmopt.compiler.sample_queue import Rows, SampleQueue
from tvmopt.errors import InputError, UsageError
from tvmopt.model import TensorSpec
from tvmopt.plugins import Plugins

Array = npt.NDArray[Any]
_SUFFIXES = (".npz", ".npy")


@dataclass
class Batches:
    """The batches of a source; each iteration reads it again.

    Attributes:
        source: what the user named.
        dataset: the data set of that name; None where it is a file or a folder.
        inputs: the model's inputs.
        with_labels: whether arrays that are no inputs come along.
        count: batches of the last iteration.
        dropped: samples of the last iteration that filled no batch.
        bounds: smallest and largest value of each input so far.
    """

    source: CalibrationSource
    dataset: Dataset | None
    inputs: Sequence[TensorSpec]
    with_labels: bool = False
    count: int = 0
    dropped: int = 0
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    @classmethod
    def open(
        cls,
        source: CalibrationSource,
        plugins: Plugins,
        inputs: Sequence[TensorSpec],
        *,
        with_labels: bool = False,
    ) -> "Batches":
        """Finds the data; nothing is read yet.

        Raises:
            UsageError: there is no such file and no such data set.
        """
        if not inputs:
            raise UsageError("the model has no inputs: there is nothing to calibrate with")
        path = Path(source.data)
        if path.exists():
            return cls(source, None, inputs, with_labels)
        name = str(source.data)
        if path.suffix in _SUFFIXES or "/" in name:
            raise UsageError(f"the data '{name}' do not exist")
        return cls(source, plugins.dataset(name), inputs, with_labels)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Batches that the model takes, at most as many as the user wants.

        Raises:
            InputError: empty, of the wrong form, or not finite; names the file and the sample.
        """
        self.count, self.dropped = 0, 0
        queue = SampleQueue(self.inputs, with_labels=self.with_labels)
        most = self.source.samples or math.inf
        for origin, rows in self._chunks():
            try:
                queue.put(rows)
            except InputError as error:
                raise _at(error, origin) from None
            for batch in queue.batches():
                if self.count and (self.count + 1) * queue.size > most:
                    return
                self._check(batch, origin, queue.size)
                self.count += 1
                yield batch
        self.dropped = queue.left_over(str(self.source.data))
        if not self.count:
            held = f"has {self.dropped} samples, and the model takes {queue.size} at a time"
            what = held if self.dropped else "has no samples"
            raise InputError(f"the data '{self.source.data}' {what}")

    def _chunks(self) -> Iterator[tuple[str, Rows]]:
        """Arrays and where they come from; never all at once."""
        if self.dataset is not None:
            names = {spec.name for spec in self.inputs}
            for rows in self.dataset.samples(self.inputs):
                wanted = {n: rows[n] for n in rows if self.with_labels or n in names}
                yield f"data set '{self.dataset.name}'", wanted
            return
        for path in _files(Path(self.source.data)):
            read = _npz_chunks if path.suffix == ".npz" else _npy_chunks
            for rows in _readable(path, read(path, self.inputs)):
                yield f"'{path}'", rows

    def _check(self, batch: dict[str, Array], origin: str, size: int) -> None:
        inputs = {spec.name: batch[spec.name] for spec in self.inputs}
        try:
            check_inputs(inputs, self.inputs)
        except InputError as error:
            raise _at(error, origin) from None
        for name, array in inputs.items():
            if not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                what = "NaN" if math.isnan(low) or math.isnan(high) else "an infinity"
                bad = ~np.isfinite(array.reshape(len(array), -1)).all(1) if array.ndim else [True]
                sample = self.count * size + int(np.argmax(bad)) % size
                message = f"data {origin}: input '{name}' has {what} in sample {sample}"
                raise InputError(message, "leave the sample out")
            known = self.bounds.get(name, (low, high))
            self.bounds[name] = min(known[0], low), max(known[1], high)

    def remarks(self) -> list[str]:
        """What of the data of the last iteration makes poor ranges."""
        said: list[str] = []
        if self.count == 1:
            said.append("there is one batch of calibration data: ranges hold for it alone")
        if self.dropped:
            said.append(f"{self.dropped} samples of calibration data fill no batch: left out")
        for spec in self.inputs:
            low, high = self.bounds.get(spec.name, (0.0, 1.0))
            if low == high and np.dtype(spec.dtype).kind == "f":
                said.append(f"input '{spec.name}' is {low:g} in all calibration data")
        return said


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix not in _SUFFIXES:
            message = f"the data '{path}' are no {' or '.join(_SUFFIXES)} file"
            raise InputError(message, "save them with numpy.savez('data.npz', NAME=array)")
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES)
    if not found:
        raise InputError(f"the folder '{path}' has no {' or '.join(_SUFFIXES)} files")
    return found


def _readable(path: Path, chunks: Iterator[Rows]) -> Iterator[Rows]:
    while True:
        try:
            rows = next(chunks)
        except StopIteration:
            return
        except InputError:
            raise
        except Exception as error:  # numpy and zipfile each raise their own for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the data '{path}' cannot be read: {reason}") from error
        yield rows


def _npy_chunks(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[Rows]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    names = [spec.name for spec in inputs]
    name = path.stem if path.stem in names else names[0]
    if len(names) > 1:
        message = f"'{path}' is one array, and the model has the inputs {', '.join(names)}"
        raise InputError(message, "save them with numpy.savez('data.npz', NAME=array)")
    if not array.ndim:
        yield {name: np.array(array)}
    for row in range(len(array) if array.ndim else 0):
        yield {name: np.array(array[row : row + 1])}


def _npz_chunks(path: Path, _inputs: Sequence[TensorSpec]) -> Iterator[Rows]:
    """One sample at a time: the members are read side by side, as far as needed."""
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = {
            name.removesuffix(".npy"): _Member(stack.enter_context(archive.open(name)))
            for name in archive.namelist()
        }
        while True:
            read = {name: one.next() for name, one in members.items()}
            rows = {name: row for name, row in read.items() if row is not None}
            if not rows:
                return
            yield rows


class _Member:
    """An array in a file, row by row."""

    def __init__(self, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise ValueError(f"it is written in NumPy's format {version}")
        self._shape, is_fortran, self._dtype = read[version](file)
        if self._dtype.hasobject:
            raise ValueError("it holds Python objects")
        if is_fortran and len(self._shape) > 1:
            raise ValueError("an array lies in Fortran's order: save np.ascontiguousarray(array)")
        self._file, self._row = file, 0

    def next(self) -> Array | None:
        """The next row, with the axis that counts them; None after the last one."""
        if self._row >= (self._shape[0] if self._shape else 1):
            return None
        self._row += 1
        shape = (1, *self._shape[1:]) if self._shape else ()
        data = self._file.read(math.prod(shape) * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype).reshape(shape)


def _at(error: InputError, origin: str) -> InputError:
    return InputError(f"data {origin}: {error}", error.hint)
