"""How much worse a quantized model may be, and by which measure.

Importable without NumPy and tvm: plugins subclass what stands here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tvmopt.errors import UsageError
from tvmopt.options import check_bounds, parse_options

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


@dataclass
class Metric(ABC):
    """Judges one output of a model. Subclasses are dataclasses; their fields are their options.

    One instance sees the batches of one model, one after the other. Its memory does not grow with
    their number, or up to a bound that it states.

    Attributes:
        output: the name of the output to judge; by default the first one.
        labels: the name of the array of labels; by default the only array that is no input.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = False
    """Whether it judges by labels; else it compares with the original's outputs."""
    higher_is_better: ClassVar[bool] = True
    perfect: ClassVar[float] = math.nan
    """Of the original compared with itself; of no use where labels judge."""
    unit: ClassVar[str] = ""
    """What its values are in, such as `%`: a drop that is no share is in these points."""
    output: str = ""
    labels: str = ""

    def __post_init__(self) -> None:
        check_bounds(self, f"metric '{self.name}'")

    @abstractmethod
    def update(self, output: "Array", reference: "Array") -> None:
        """Takes in one batch.

        Args:
            output: the model's.
            reference: labels, if it needs them, else the original's output.

        Raises:
            ValueError: their shapes do not fit.
        """

    @abstractmethod
    def value(self) -> float:
        """The measure over all batches; NaN where there was nothing to measure."""

    def drop(self, original: float, *, relative: bool) -> float:
        """How much worse the value is than the original's: as a share of that, or in points.

        Raises:
            UsageError: it has no such drop.
        """
        worse = original - self.value() if self.higher_is_better else self.value() - original
        if not relative:
            return worse
        if not original:
            return math.inf if worse > 0 else 0.0
        return worse / abs(original)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Builds a metric from options as they are written on the command line.

        Raises:
            UsageError: an option that it does not have, or a value of the wrong type.
        """
        return cls(**parse_options(cls, f"metric '{cls.name}'", options))


@dataclass(frozen=True)
class MaxDrop:
    """The most that a metric may get worse.

    Attributes:
        most: a share of the original's value if `relative`, from 0 to 1; else in points.
    """

    most: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `1%`, a share of the original's value, or `0.3`, in points.

        Raises:
            UsageError: another form, or a negative number.
        """
        number, is_relative = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            most = float(number)
        except ValueError:
            most = math.nan
        if not (math.isfinite(most) and most >= 0):
            message = f"a drop is a share such as 1%, or points such as 0.3, got '{text}'"
            raise UsageError(message)
        return cls(most / 100 if is_relative else most, is_relative)

    def text_of(self, drop: float) -> str:
        """A drop as the limit is written."""
        return f"{drop:.3%}" if self.relative else f"{drop:.4g}"

    def __str__(self) -> str:
        return f"{100 * self.most:g}%" if self.relative else f"{self.most:g}"


@dataclass(frozen=True)
class AccuracyGate:
    """How good a quantized model must be.

    Attributes:
        max_drop: the most that it may be worse than the original.
        metric: the name of a metric with options, as in `top1:axis=1`.
        data: a `.npz` or `.npy` file, a folder of them, or the name of a registered data set with
            options. An array that is no input holds the labels.
    """

    max_drop: MaxDrop
    metric: str
    data: Path | str

    @classmethod
    def of(cls, max_drop: str | None, metric: str | None, data: Path | str | None) -> Self | None:
        """The gate that a user describes; None where nothing is said of one.

        Raises:
            UsageError: a part is missing, or wrong.
        """
        parts = {"max-drop": max_drop, "metric": metric, "dataset": data}
        missing = [name for name, value in parts.items() if value is None]
        if max_drop is None or metric is None or data is None:
            if len(missing) == len(parts):
                return None
            given = next(name for name in parts if name not in missing)
            message = f"the accuracy gate has a {given} and no {' and no '.join(missing)}"
            raise UsageError(message, "--max-drop 1% --metric top1 --dataset eval.npz")
        return cls(MaxDrop.parse(max_drop), metric, data)
