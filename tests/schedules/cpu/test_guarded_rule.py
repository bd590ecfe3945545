"""Rules step aside where a kernel is not of the form that they are made for."""

import pytest
from tvm import te
from tvm.target import Target

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.compute.conv2d import CONV2D, CONV2D_PIXELS, GROUPS
from tvmopt_schedules.cpu.compute.matmul import MATMUL_PACKED
from tvmopt_schedules.cpu.compute.window import WINDOW
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.x86.rules import rules

MACHINE = Machine(lanes=8, registers=16, cores=2, l1_bytes=32 << 10, l2_bytes=1 << 20)


@pytest.mark.parametrize("op", [CONV2D, CONV2D_PIXELS, WINDOW, MATMUL_PACKED])
def test_an_operator_of_another_form_is_left_to_the_next_rule(op: str) -> None:
    x = te.placeholder((4, 8, 8), name="x")
    k = te.reduce_axis((0, 8), "k")
    attrs = {OP_ANNOTATION: op, GROUPS: 1}
    y = te.compute((4, 8), lambda i, j: te.sum(x[i, j, k], axis=k), name="y", attrs=attrs)
    func = te.create_prim_func([x, y])
    target = Target({"kind": "llvm", "num-cores": 2})
    made = [rule.name for rule in rules(MACHINE) if rule.apply(func, target, False) is not None]
    assert made
    assert not {"conv2d-nchwc", "window-nchwc", "matmul-packed"} & set(made)
