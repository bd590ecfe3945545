"""What quantization learns from data: calibrators, data sets, and a model that shows its tensors.

Importable without NumPy and tvm: plugins subclass what stands here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tvmopt.errors import UsageError
from tvmopt.model import TensorSpec
from tvmopt.options import check_bounds, parse_options

if TYPE_CHECKING:
    import numpy.typing as npt
    import tvm
    from tvm import relax

    Array = npt.NDArray[Any]
    Observe = Callable[[Array], None]


@dataclass
class Calibrator(ABC):
    """Decides which floats of one tensor the integers shall cover, from what it sees of it.

    Subclasses are dataclasses; their fields are their options. One instance sees one tensor, and
    its memory does not grow with the number of samples.
    """

    name: ClassVar[str]
    low: float = field(default=math.inf, init=False)
    """Smallest value seen."""
    high: float = field(default=-math.inf, init=False)
    """Largest value seen."""
    samples: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_bounds(self, f"calibrator '{self.name}'")

    def observe(self, values: "Array") -> None:
        """Takes one sample of the tensor into account: float32, not empty.

        Raises:
            ValueError: a value that is not finite; nothing was taken in.
        """
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "infinity")
        self.samples += 1
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.update(values, low, high)

    @abstractmethod
    def update(self, values: "Array", low: float, high: float) -> None:
        """Takes in one sample, whose smallest and largest value are known."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """The floats to cover, of at least one sample. What lies outside will saturate."""

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Builds a calibrator from options as they are written on the command line.

        Raises:
            UsageError: an option that it does not have, or a value of the wrong type.
        """
        return cls(**parse_options(cls, f"calibrator '{cls.name}'", options))


@dataclass(frozen=True)
class Dataset(ABC):
    """Samples by name. Subclasses are frozen dataclasses; their fields are their options."""

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def samples(self, inputs: Sequence[TensorSpec]) -> "Iterator[Mapping[str, Array]]":
        """Yields samples for a model with these inputs, always in the same order.

        Each has an array for each input, of its dtype; their first axis may hold several samples.
        Arrays by other names are labels, for metrics.

        Raises:
            InputError: the data set is not for such inputs.
        """

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Builds a data set from options as they are written on the command line.

        Raises:
            UsageError: an option that it does not have, or a value of the wrong type.
        """
        return cls(**parse_options(cls, f"data set '{cls.name}'", options))


@dataclass(frozen=True)
class CalibrationSource:
    """What the user says of calibration.

    Attributes:
        data: a `.npz` or `.npy` file, a folder of them, or the name of a registered data set with
            options, as in `digits:split=train`.
        calibrator: the name of a calibrator with options, as in `percentile:percentile=99.9`; empty
            for each tensor's default.
        samples: at most so many are used; 0 for all.
    """

    data: Path | str
    calibrator: str = ""
    samples: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise UsageError(f"the number of calibration samples is at least 0, got {self.samples}")


class Calibration(ABC):
    """Calibration data and the means to run a module on it: `ctx.calibration` of a pass."""

    @abstractmethod
    def new_calibrator(self, default: str) -> Calibrator:
        """A calibrator of the kind that the user asked for, or else of this name."""

    def calibrate(
        self, mod: "tvm.IRModule", variables: "Sequence[relax.Var]", default: str
    ) -> "tuple[dict[relax.Var, Calibrator], Mapping[relax.Var, str]]":
        """Calibrators of `new_calibrator(default)` that have seen variables of a float module.

        Returns them, and why a variable was given up. What has been seen of an equal module may
        not be seen anew: calibrators are not to be changed.

        Raises:
            InputError: as `observe`.
        """
        made = {var: self.new_calibrator(default) for var in variables}
        return made, self.observe(mod, {var: one.observe for var, one in made.items()})

    @abstractmethod
    def observe(
        self, mod: "tvm.IRModule", observers: "Mapping[relax.Var, Observe]", batches: int = 0
    ) -> "Mapping[relax.Var, str]":
        """Runs a float module on the samples and shows variables of its `main` to observers.

        The module is compiled with the target's own kernels. Memory does not grow with the number
        of samples. An array is only lent: it is overwritten with the next sample.

        Returns why a variable was given up: its observer raised ValueError.

        Args:
            mod: what runs.
            observers: by variable.
            batches: at most so many; 0 for all.

        Raises:
            InputError: the data are empty, of the wrong form, or not finite.
        """


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Reads `NAME` and `NAME:KEY=VALUE,...`.

    Raises:
        UsageError: another form.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"'{text}': '{pair}' is not of the form key=value")
        options[key.strip()] = value.strip()
    return name.strip(), options
