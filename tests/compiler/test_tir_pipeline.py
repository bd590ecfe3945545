"""The way from scheduled kernels to LLVM: local tiles, and loops that a hint takes apart."""

from typing import Any

import pytest
import tvm
from tvm import s_tir, te, tirx

from tvmopt.compiler.tir_pipeline import PARTITION_HINT, TIR_PIPELINE
from tvmopt_plugins.target_x86 import X86

_TARGET = X86("x86-avx2").target()


def _copy_through_tile(extent: int, tile: int) -> s_tir.Schedule:
    """`y = (x + 1) * 2` with `x + 1` in a local buffer of `tile` elements."""
    x = te.placeholder((extent,), name="x")
    one = te.compute((extent,), lambda i: x[i] + 1.0, name="one")
    y = te.compute((extent,), lambda i: one[i] * 2.0, name="two")
    func = te.create_prim_func([x, y], index_dtype_override="int64")
    sch = s_tir.Schedule(func)
    outer, _ = sch.split(sch.get_loops(sch.get_sblock("two"))[0], [None, tile])
    sch.compute_at(sch.get_sblock("one"), outer)
    sch.annotate(outer, PARTITION_HINT, 1)
    return sch


def _assembly(sch: s_tir.Schedule) -> str:
    with _TARGET:
        return tvm.compile(sch.mod, _TARGET, tir_pipeline=TIR_PIPELINE).mod.inspect_source("asm")


@pytest.mark.parametrize(("elements", "is_local"), [(384, True), (65536, False)])
def test_small_buffers_are_local_variables(elements: int, is_local: bool) -> None:
    assembly = _assembly(_copy_through_tile(4 * elements, elements))
    assert ("AllocWorkspace" not in assembly) == is_local


def test_a_hint_survives_the_narrowing_of_indices() -> None:
    from tvmopt.compiler.tir_pipeline import _hints_around_loops, _hints_into_loops

    def run(rewrite: Any, mod: Any) -> Any:
        return tirx.transform.prim_func_pass(rewrite, opt_level=0)(mod)

    mod = _copy_through_tile(100, 8).mod
    for one in (
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerOpaqueBlock(),
    ):
        mod = one(mod)
    mod = tirx.transform.FlattenBuffer()(run(_hints_into_loops, mod))
    mod = run(_hints_around_loops, tirx.transform.NarrowDataType(32)(mod))
    after = tirx.transform.StmtSimplify()(s_tir.transform.LoopPartition()(mod))
    # Whole tiles have no condition left; the last one has, but not on which tile it is.
    assert any("i_0" in line for line in _conditions(mod))
    assert not any("i_0" in line for line in _conditions(after))


def _conditions(mod: Any) -> list[str]:
    return [line.strip() for line in mod["main"].script().splitlines() if "if " in line]
