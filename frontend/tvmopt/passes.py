"""What a pass is: a frozen dataclass; its fields are its options, its `run` rewrites a module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from tvmopt.options import check_bounds, parse_options
from tvmopt.report import Remark, Report

if TYPE_CHECKING:
    from typing import Self

    import tvm

    from tvmopt.calibration import Calibration
    from tvmopt.model import CompileRequest


class Stage(IntEnum):
    """When a pass runs. Stages run in this order; inside one, in the order of the line-up."""

    CANONICALIZE = 1  # Relax operators, as imported: fold, simplify, recognize
    PRUNE = 2
    QUANTIZE = 3
    LAYOUT = 4  # integer arithmetic, blocked layouts and packed weights
    LEGALIZE = 5  # every operator becomes a call of a PrimFunc
    FUSE = 6  # several PrimFuncs become one kernel
    SCHEDULE = 7  # every kernel gets its loops


DEFAULT_PASSES = (
    "canonicalize",
    "fold-batch-norm",
    "recognize-patterns",
    "merge-parallel-matmuls",
    "realize-quantized",
    "layout",
    "pack-recurrent",
    "fuse-attention",
    "pack-matmul",
    "legalize",
    "fuse",
    "share-buffers",
    "schedule",
    "overwrite-operands",
)
"""The passes that every compilation runs unless it is told otherwise, in this order."""


@dataclass
class CompileContext:
    """What a pass may look at and write to besides the module.

    Attributes:
        request: what the user asked for; `request.backend` is the hardware.
        target: the backend's TVM target.
        report: where remarks and layers go.
        calibration: data to run the model on; None when the user gave none.
        simulated: the model in floats that compute what its integers stand for; a pass that
            quantizes leaves it here, and the compiled model is held against it.
        unquantized: the same before it was quantized, with variables of the same names; what a
            layer loses is measured against it.
        kept_float: why a product shall not be quantized, by the names of ONNX nodes: it was found
            too slow in integers, or too inaccurate.
    """

    request: "CompileRequest"
    target: "tvm.target.Target"
    report: Report = field(default_factory=Report)
    calibration: "Calibration | None" = None
    simulated: "tvm.IRModule | None" = None
    unquantized: "tvm.IRModule | None" = None
    kept_float: Mapping[str, str] = field(default_factory=dict[str, str])

    def why_float(self, var_name: str) -> str:
        """Why a product, by its variable's name, shall not be quantized; empty where it may be."""
        reasons = (self.kept_float.get(node, "") for node in var_name.split("|"))
        return next(filter(None, reasons), "")

    def passed(self, source: "Pass", op: str, message: str) -> None:
        """Records that `source` rewrote `op` (an ONNX node's name)."""
        self.report.remarks.append(Remark("passed", source.name, op, message))

    def missed(self, source: "Pass", op: str, why: str) -> None:
        """Records that `source` saw its pattern at `op` and left it alone, and why."""
        self.report.remarks.append(Remark("missed", source.name, op, why))

    def found(self, source: "Pass", op: str, message: str) -> None:
        """Records something that `source` found out and the user should know."""
        self.report.remarks.append(Remark("analysis", source.name, op, message))


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of the whole module. Subclasses are frozen dataclasses; their fields are options.

    The class must be importable without tvm: import what does the work inside `run`.
    The variable that a Relax binding defines is called like the ONNX node it computes; a pass
    keeps these names.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    required: ClassVar[bool] = False
    """Whether no compilation can do without it: then it cannot be disabled."""

    def __post_init__(self) -> None:
        """Checks the bounds that `option` gave.

        Raises:
            UsageError: an option below its minimum.
        """
        check_bounds(self, f"pass '{self.name}'")

    @abstractmethod
    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        """Returns the rewritten module, or `mod` itself when nothing fired."""

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> "Self":
        """Builds the pass from options as they are written on the command line.

        Raises:
            UsageError: an option that the pass does not have, or a value of the wrong type.
        """
        return cls(**parse_options(cls, f"pass '{cls.name}'", options))
