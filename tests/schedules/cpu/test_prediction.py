from typing import Any

import pytest
from tvm import s_tir, te, topi
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target

from tvmopt_schedules.cpu.cost import CALL_CYCLES
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.rules.predicted import Predicted
from tvmopt_schedules.prediction import Prediction, predict, prediction_of, touched_bytes

MACHINE = Machine(
    lanes=8, registers=16, cores=2, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=16 << 20
)


class _Parallel(ScheduleRule):
    """Spreads the outermost loop; attaches `known` where it is given."""

    def __init__(self, known: Prediction | None = None) -> None:
        self.known = known

    def apply(self, func: Any, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        sch.parallel(sch.get_loops(sch.get_sblock("y"))[0])
        return sch if self.known is None else predict(sch, self.known)


def _predicted(rows: int, known: Prediction | None = None) -> Prediction:
    x = te.placeholder((rows, 1024), name="x")
    func = te.create_prim_func([x, te.compute(x.shape, lambda i, j: x[i, j] + 1, name="y")])
    made = Predicted(_Parallel(known), MACHINE).apply(func, Target("llvm"), False)
    assert isinstance(made, s_tir.Schedule)
    found = prediction_of(made.mod["main"])
    assert found is not None
    return found


def test_a_prediction_of_the_rule_is_kept():
    assert _predicted(8, Prediction(1234.4, 3)) == Prediction(1234, 3)


def test_a_kernel_without_one_counts_as_a_pass_over_its_operands():
    small, large = _predicted(8), _predicted(4096)
    assert small.pieces == 8
    # 64 KiB come from the level-2 cache, 32 MiB from memory.
    assert small.cycles == pytest.approx(
        (64 << 10) / MACHINE.l2_bytes_per_cycle + CALL_CYCLES, rel=0.01
    )
    assert large.cycles == pytest.approx(
        (32 << 20) / MACHINE.memory_bytes_per_cycle + CALL_CYCLES, rel=0.01
    )


def test_a_kernel_that_nobody_scheduled_has_none():
    x = te.placeholder((4,), name="x")
    assert prediction_of(te.create_prim_func([x, te.compute((4,), lambda i: x[i] + 1)])) is None


def test_only_what_is_gathered_counts():
    table = te.placeholder((1000, 64), name="table")
    rows = te.placeholder((4,), "int64", name="rows")
    func = te.create_prim_func([table, rows, topi.take(table, rows, axis=0)])
    assert touched_bytes(func) == [4 * 64 * 4, 4 * 8, 4 * 64 * 4]


def test_what_is_read_often_counts_once():
    a, b = te.placeholder((8, 8), name="a"), te.placeholder((8, 8), name="b")
    assert touched_bytes(te.create_prim_func([a, b, topi.matmul(a, b)])) == [256, 256, 256]
