"""Calibration on a few arrays, for tests of what quantizes; and what they look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import Calibration
from tvmopt.calibration import Calibrator
from tvmopt.compiler.calibrate import showing
from tvmopt.plugins import Plugins

LLVM = tvm.target.Target("llvm")


def run(mod: tvm.IRModule, x: Any) -> list[Any]:
    vm = relax.VirtualMachine(tvm.compile(mod, target=LLVM), tvm.cpu())
    result = vm["main"](tvm.runtime.tensor(x))
    return [one.numpy() for one in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


@dataclass
class Samples(Calibration):
    """A few arrays, run by TVM's own kernels."""

    arrays: list[Any]

    def new_calibrator(self, default: str) -> Calibrator:
        return Plugins.load().calibrator("minmax")()

    def observe(
        self,
        mod: tvm.IRModule,
        observers: Mapping[Any, Callable[[Any], None]],
        batches: int = 0,
    ) -> Mapping[Any, str]:
        given_up: dict[Any, str] = {}
        (x,) = mod["main"].params
        computed = [var for var in observers if var != x]
        shown = showing(mod, computed)
        for array in self.arrays[: batches or None]:
            values = dict(zip(computed, run(shown, array), strict=True))
            for var, observe in observers.items():
                try:
                    observe(values.get(var, array))
                except ValueError as error:
                    given_up[var] = str(error)
        return given_up


def op_of(value: Any) -> str:
    return getattr(getattr(value, "op", None), "name", "")


def calls(mod: tvm.IRModule, op: str) -> list[Any]:
    return [b for block in mod["main"].body.blocks for b in block.bindings if op_of(b.value) == op]


def sqnr(ours: Any, exact: Any) -> float:
    return float(10 * np.log10((exact**2).sum() / ((ours - exact) ** 2).sum()))
