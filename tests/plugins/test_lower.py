"""The passes `legalize` and `schedule`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.dlight import ScheduleRule
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt import (
    Backend,
    Capabilities,
    CompileContext,
    CompileRequest,
    ModelSource,
    UsageError,
)
from tvmopt.plugins import Plugins
from tvmopt_plugins.lower import Legalize
from tvmopt_plugins.lower import Schedule as SchedulePass
from tvmopt_schedules.cpu.code.blocks import is_reduction


class TakesRelu(ScheduleRule):
    name = "relu-rule"

    def apply(self, func: tirx.PrimFunc, target: Any, tunable: bool) -> Schedule | None:
        sch = Schedule(func)
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
        if len(blocks) != 1 or is_reduction(sch, blocks[0]):
            return None
        sch.vectorize(sch.get_loops(blocks[0])[-1])
        return sch


class TakesAll(ScheduleRule):
    name = "any"
    fallback = True

    def apply(self, func: tirx.PrimFunc, target: Any, tunable: bool) -> Schedule | None:
        return Schedule(func)


class Board(Backend):
    name: ClassVar[str] = "board"
    description: ClassVar[str] = "for tests"
    rules: Sequence[ScheduleRule] = ()
    definitions: Mapping[str, Any] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(8, 16, 1, 32 << 10, 1 << 20)

    def target(self) -> tvm.target.Target:
        return tvm.target.Target("llvm")

    def legalizations(self) -> Mapping[str, Any]:
        return self.definitions

    def schedule_rules(self) -> Sequence[ScheduleRule]:
        return self.rules


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def ctx(board: Board) -> CompileContext:
    request = CompileRequest(ModelSource(Path("model.onnx")), board)
    return CompileContext(request, board.target())


@I.ir_module
class ReluTwice:
    @R.function
    def main(x: R.Tensor((2, 8), "float32")) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            a = R.nn.relu(x)
            b = R.nn.relu(a)
            c = R.nn.softmax(b)
            d = R.sum(c, axis=1)
            R.output(d)
        return d


def test_split_becomes_slices(ctx: CompileContext) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 10), "float32")) -> R.Tensor((2, 3), "float32"):
            with R.dataflow():
                parts = R.split(x, [3, 6], axis=1)
                b = parts[1]
                R.output(b)
            return b

    mod = Legalize().run(Before, ctx)
    names = [var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert names == ["strided_slice"]


def test_definition_of_the_backend_comes_first(board: Board, ctx: CompileContext) -> None:
    def as_double(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return bb.call_te(
            lambda x: tvm.te.compute(x.shape, lambda *i: x(*i) * 2.0),
            call.args[0],
            primfunc_name_hint="ours",
        )

    board.definitions = {"relax.nn.relu": as_double}
    mod = Legalize().run(ReluTwice, ctx)
    assert "ours" in [var.name_hint for var in mod.get_global_vars()]


def test_first_rule_that_takes_a_kernel_wins(board: Board, ctx: CompileContext) -> None:
    board.rules = [TakesRelu(), TakesAll()]
    SchedulePass().run(Legalize().run(ReluTwice, ctx), ctx)
    taken = [(layer.op, layer.schedule) for layer in ctx.report.layers]
    expected = [("relu", "relu-rule"), ("relu", "relu-rule"), ("softmax", "any")]
    assert taken[:3] == expected


def test_layers_carry_names_and_sizes(board: Board, ctx: CompileContext) -> None:
    board.rules = [TakesAll()]
    SchedulePass().run(Legalize().run(ReluTwice, ctx), ctx)
    first = ctx.report.layers[0]
    assert first.nodes == ("a",)
    assert first.bytes_moved == 2 * (2 * 8 * 4)
    assert first.outputs == ("float32[2, 8]",)


def test_fallback_is_reported(board: Board, ctx: CompileContext) -> None:
    board.rules = [TakesRelu(), TakesAll()]
    SchedulePass().run(Legalize().run(ReluTwice, ctx), ctx)
    softmax = next(layer for layer in ctx.report.layers if layer.op == "softmax")
    assert softmax.fallback
    missed = [r.op for r in ctx.report.remarks if r.kind == "missed"]
    assert missed.count("c") == 1
    assert "a" not in missed


def test_kernel_that_no_rule_takes_is_named(board: Board, ctx: CompileContext) -> None:
    board.rules = [TakesRelu()]
    SchedulePass().run(Legalize().run(ReluTwice, ctx), ctx)
    softmax = next(layer for layer in ctx.report.layers if layer.op == "softmax")
    assert softmax.schedule == "none"
    assert "unscheduled" in softmax.fallback


@pytest.mark.parametrize("name", ["legalize", "schedule"])
def test_what_nothing_runs_without_cannot_be_disabled(name: str) -> None:
    plugins = Plugins.load()
    source = ModelSource(Path("model.onnx"))
    request = CompileRequest(source, plugins.backend("x86-avx2"), disabled=frozenset({name}))
    with pytest.raises(UsageError, match=f"'{name}' cannot be disabled"):
        plugins.line_up(request)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("canonicalize", "max-growth-bytes", "-1"),
        ("fuse", "max-ops", "0"),
        ("layout", "block", "-3"),
        ("merge-parallel-matmuls", "max-width", "-1"),
    ],
)
def test_option_below_its_minimum_is_refused(name: str, option: str, value: str) -> None:
    plugins = Plugins.load()
    source = ModelSource(Path("model.onnx"))
    request = CompileRequest(source, plugins.backend("x86-avx2"), {name: {option: value}})
    with pytest.raises(UsageError, match=f"'{option}' of pass '{name}' is at least"):
        plugins.line_up(request)


def test_sums_along_another_axis_than_the_last_add_up_rows() -> None:
    """A path with other axes behind the one that is summed along; integers, so exact."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 4), "int32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            sums = builder.emit(relax.op.cumsum(x, 1, exclusive=True))
            out = builder.emit_output(relax.op.cumprod(sums, -3))
        builder.emit_func_output(out)
    backend = Plugins.load().backend("x86-avx2")
    request = CompileRequest(ModelSource(Path("model.onnx")), backend)
    ctx = CompileContext(request, backend.target())
    with ctx.target:
        mod = Legalize().run(builder.get(), ctx)
    assert sorted(var.name_hint for var in mod.get_global_vars()) == ["cumprod", "cumsum", "main"]
    vm = relax.VirtualMachine(tvm.compile(mod, target=tvm.target.Target("llvm")), tvm.cpu())
    given = np.arange(24, dtype=np.int32).reshape(2, 3, 4) % 5
    expected = np.cumprod(np.cumsum(given, axis=1) - given, axis=0)
    np.testing.assert_array_equal(vm["main"](tvm.runtime.tensor(given)).numpy(), expected)
