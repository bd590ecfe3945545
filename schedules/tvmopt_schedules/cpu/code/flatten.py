"""Blocks in terms of their loops, with accesses of parameters by flat offset.

Fusing loops binds a block's axes to quotients and remainders of the fused variable. Split into
vectors, `x[f // 3136, f % 3136 // 56, f % 56]` is more than TVM's simplifier can put together
again, and becomes one load per lane. Before the split it is simply `x[0, 0, f]`: the offset of an
access is what counts, and a parameter's layout is never changed later.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx

from tvmopt_schedules.cpu.code.terms import substitute, variables, with_body


def flatten_accesses(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrites every leaf block of a scheduled kernel."""
    root = func.body
    if not isinstance(root, s_tir.SBlockRealize):
        return func
    parameters = set(func.params)
    body = _Flattener(parameters).visit(root.block.body, [])
    block = with_body(root.block, body)
    return func.with_body(s_tir.SBlockRealize(root.iter_values, root.predicate, block))


class _Flattener:
    def __init__(self, parameters: set[Any]) -> None:
        self.parameters = parameters

    def visit(self, stmt: Any, loops: Sequence[tirx.For]) -> Any:
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([self.visit(part, loops) for part in stmt.seq])
        if isinstance(stmt, tirx.For):
            body = self.visit(stmt.body, [*loops, stmt])
            return tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, annotations=stmt.annotations
            )
        if isinstance(stmt, s_tir.SBlockRealize) and not _has_blocks(stmt.block.body):
            return self.rebind(stmt, loops)
        return stmt

    def rebind(self, realize: Any, loops: Sequence[tirx.For]) -> Any:
        """The block with one axis for each of its loops."""
        block = realize.block
        if any(it.iter_type not in _KINDS for it in block.iter_vars):
            return realize
        reduced: set[Any] = set()
        bound: set[Any] = set()
        for it, value in zip(block.iter_vars, realize.iter_values, strict=True):
            used = variables(value)
            bound |= used
            if it.iter_type == tirx.IterVar.CommReduce:
                reduced |= used
        analyzer = sym.Analyzer()
        axes: list[tirx.IterVar] = []
        values: list[Any] = []
        axis_of: dict[Any, Any] = {}
        for loop in loops:
            if loop.loop_var not in bound:
                continue
            var = tirx.Var(f"v_{loop.loop_var.name}", loop.loop_var.ty)
            kind = "CommReduce" if loop.loop_var in reduced else "DataPar"
            domain = ir.Range.from_min_extent(loop.min, loop.extent)
            analyzer.bind(var, domain)
            axes.append(tirx.IterVar(domain, var, getattr(tirx.IterVar, kind)))
            values.append(loop.loop_var)
            axis_of[loop.loop_var] = var
        known = {
            it.var: analyzer.simplify(substitute(value, axis_of))
            for it, value in zip(block.iter_vars, realize.iter_values, strict=True)
        }
        return s_tir.SBlockRealize(
            values, realize.predicate, self._block(block, axes, known, analyzer)
        )

    def _block(
        self, block: Any, axes: list[Any], known: Mapping[Any, Any], analyzer: sym.Analyzer
    ) -> s_tir.SBlock:
        def renew(node: Any) -> Any:
            return None if node is None else self._flat(substitute(node, dict(known)), analyzer)

        return s_tir.SBlock(
            axes,
            [self._region(region, known) for region in block.reads],
            [self._region(region, known) for region in block.writes],
            block.name_hint,
            renew(block.body),
            renew(block.init),
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    def _region(self, region: Any, known: Mapping[Any, Any]) -> Any:
        if region.source in self.parameters:
            shape = region.source.shape
            return tirx.BufferRegion(region.source, [ir.Range.from_min_extent(0, d) for d in shape])
        return substitute(region, dict(known))

    def _flat(self, node: Any, analyzer: sym.Analyzer) -> Any:
        def indices(buffer: Any, old: Sequence[Any]) -> list[Any] | None:
            if buffer not in self.parameters or len(old) < 2:
                return None
            offset: Any = old[0]
            for index, size in zip(old[1:], buffer.shape[1:], strict=True):
                offset = offset * size + index
            zero = tirx.const(0, offset.ty)
            return [*(zero for _ in old[1:]), analyzer.simplify(offset)]

        def load(one: Any) -> Any:
            new = indices(one.source, one.indices)
            return one if new is None else tirx.BufferLoad(one.source, new)

        def store(one: Any) -> Any:
            new = indices(one.buffer, one.indices)
            return one if new is None else tirx.BufferStore(one.buffer, one.value, new)

        return tvm_ffi.structural_map(node, [(ir.TensorLoad, load), (tirx.BufferStore, store)])


_KINDS = (tirx.IterVar.DataPar, tirx.IterVar.CommReduce)


def _has_blocks(stmt: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(stmt, [(s_tir.SBlock, found.append)])
    return bool(found)
