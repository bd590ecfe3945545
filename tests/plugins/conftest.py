"""What tests of graph passes share: run a pass, compare the graph and the numbers."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import CompileContext, CompileRequest, ModelSource, Pass
from tvmopt.plugins import Plugins

sys.path.insert(0, str(Path(__file__).parent))
_TARGET = tvm.target.Target("llvm")


def outputs(mod: tvm.IRModule, seed: int = 0) -> list[np.ndarray]:
    """The results of `main` on seeded inputs, with TVM's own unscheduled kernels."""
    rng = np.random.default_rng(seed)
    inputs = []
    for param in mod["main"].params:
        shape, dtype = [int(dim) for dim in param.ty.shape], str(param.ty.dtype)
        if dtype.startswith("float"):
            inputs.append(rng.standard_normal(shape).astype(dtype))
        else:
            inputs.append(rng.integers(0, 4, shape).astype(dtype))
    mod = relax.transform.DecomposeOpsForInference()(mod)
    vm = relax.VirtualMachine(tvm.compile(mod, target=_TARGET), tvm.cpu())
    result = vm["main"](*[tvm.runtime.tensor(array) for array in inputs])
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [item.numpy() for item in results]


@dataclass
class Checker:
    """Runs passes and compares what comes out."""

    ctx: CompileContext
    numbers: dict[Any, list[np.ndarray]] = field(default_factory=dict)

    def __call__(
        self,
        one: Pass,
        before: tvm.IRModule,
        expected: tvm.IRModule | None = None,
        *,
        rtol: float = 0,
        atol: float = 0,
    ) -> tvm.IRModule:
        """The rewritten module: equal to `expected` if given, and in its numbers to `before`."""
        after = one.run(before, self.ctx)
        assert relax.analysis.check_well_formed(after)
        if expected is not None:
            tvm.ir.assert_structural_equal(after, expected, map_free_vars=True)
        if not after.same_as(before):
            for new, old in zip(outputs(after), outputs(before), strict=True):
                np.testing.assert_allclose(new, old, rtol=rtol, atol=atol)
        return after

    def leaves(self, one: Pass, before: tvm.IRModule) -> list[str]:
        """Why the pass left the module alone, which it must do; `op: reason` each."""
        assert one.run(before, self.ctx).same_as(before)
        return self.missed()

    def missed(self) -> list[str]:
        """The remarks on what was left alone."""
        return [f"{r.op}: {r.message}" for r in self.ctx.report.remarks if r.kind == "missed"]

    def passed(self) -> list[str]:
        """The remarks on what was rewritten."""
        return [f"{r.op}: {r.message}" for r in self.ctx.report.remarks if r.kind == "passed"]


def ops(mod: tvm.IRModule) -> list[str]:
    """The operators of `main` in order."""
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    return [v.op.name.removeprefix("relax.") for v in values if isinstance(v, relax.Call)]


def names(mod: tvm.IRModule) -> list[str]:
    """The names of the bindings of `main` in order."""
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


@pytest.fixture
def check() -> Checker:
    backend = Plugins.load().backend("x86-avx2")
    request = CompileRequest(ModelSource(Path("model.onnx")), backend)
    return Checker(CompileContext(request, backend.target()))


@pytest.fixture(scope="session", name="ops")
def ops_fixture() -> Any:
    return ops


@pytest.fixture(scope="session", name="names")
def names_fixture() -> Any:
    return names
