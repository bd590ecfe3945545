"""What a schedule is expected to take, as attributes of the kernel that it made.

Whoever schedules a kernel says so by `predict`; where nobody did, the kernel counts as one pass
over its operands (`cpu/predicted_rule.py`). `tvmopt profile` holds them against measured times.
"""

from dataclasses import dataclass

from tvm import IRModule, s_tir, tirx

CYCLES = "tvmopt.predicted_cycles"
"""Attribute of a scheduled PrimFunc: cycles of one call on one core, an integer."""

PIECES = "tvmopt.predicted_pieces"
"""Attribute of a scheduled PrimFunc: equal parts that cores share; 1 where one core does all."""


@dataclass(frozen=True)
class Prediction:
    """The expected cost of one call of a kernel.

    Attributes:
        cycles: of one core that does everything, memory included.
        pieces: iterations of the parallel loop, 1 where there is none. With `t` threads, the
            busiest core has `ceil(pieces / t)` of them.
    """

    cycles: float
    pieces: int = 1


def predict(sch: s_tir.Schedule, prediction: Prediction) -> s_tir.Schedule:
    """The schedule `sch`, finished, with its prediction attached to the kernel."""
    func = sch.mod["main"]
    func = func.with_attr(CYCLES, max(1, round(prediction.cycles)))
    func = func.with_attr(PIECES, max(1, prediction.pieces))
    return s_tir.Schedule(IRModule({"main": func}))


def prediction_of(func: tirx.PrimFunc) -> Prediction | None:
    """The prediction that the kernel carries; None where nobody made one."""
    attributes = dict((func.attrs or {}).items())
    if CYCLES not in attributes:
        return None
    return Prediction(float(attributes[CYCLES]), int(attributes.get(PIECES, 1)))
