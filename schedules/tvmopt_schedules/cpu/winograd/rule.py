"""The kernels of Winograd convolutions on blocked channels, with everything that follows them."""

from collections.abc import Sequence
from math import prod
from typing import Any

import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.code.blocks import Kernel, find_anchor
from tvmopt_schedules.cpu.code.loops import PARALLEL_FLOPS
from tvmopt_schedules.cpu.code.statements import Expr, Statement, integer, loop, sequence
from tvmopt_schedules.cpu.code.terms import substitute
from tvmopt_schedules.cpu.compute.winograd import LEFT, TILE, TOP, WINOGRAD
from tvmopt_schedules.cpu.convolution.blocked_epilogue import calls, close_kernel, schedule_moves
from tvmopt_schedules.cpu.rules.guarded import GuardedRule
from tvmopt_schedules.cpu.winograd.loops import WinogradCode
from tvmopt_schedules.cpu.winograd.plan import WinogradShape, plan, transform_flops
from tvmopt_schedules.prediction import FLOPS, Prediction, predict

_BEYOND_LEVEL_2 = 8
"""Weights larger than this part of the level-2 cache are not in it when their layer begins."""


class WinogradNchwc(GuardedRule):
    """Transforms a batch of squares, multiplies them with each chunk of weights, transforms back.

    Loops: batch of squares | input block, group, square: `B^T d B` | chunk of output channels:
    (place, group: products in registers), (group, square: `A^T m A`, epilogue, store).
    """

    name = "winograd-nchwc"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        kernel = find_anchor(sch, WINOGRAD)
        if kernel is None or len(kernel.before) != 2:
            return None
        image, products = (sch.get(sch.get_sblock(name)) for name in kernel.before)
        anchor = sch.get(sch.get_sblock(kernel.anchor))
        data, weight = image.reads[0].source, products.reads[1].source
        shape = _shape(anchor, data, weight)
        made = plan(self.machine, shape, int(weight.shape[3]) // shape.lanes)
        serial = _flops(shape) < PARALLEL_FLOPS

        block, moves = close_kernel(sch, kernel)
        schedule_moves(sch, moves, self.machine)
        last = sch.get(block)
        result = sch.get(sch.get_sblock(kernel.anchor)).writes[0].source
        code = WinogradCode(shape, made, data, weight)
        weight_bytes = prod(int(dim) for dim in weight.shape) * 4
        far = weight_bytes > self.machine.l2_bytes // _BEYOND_LEVEL_2
        body = _body(code, last, result, cores=1 if serial else self.machine.cores, far=far)
        finished = _replace(sch, kernel, last, body, code)
        func = finished.mod["main"].with_attr(FLOPS, _flops(shape) + transform_flops(shape))
        counted = s_tir.Schedule(IRModule({"main": func}))
        return predict(counted, Prediction(made.cycles, 1 if serial else made.pieces))


def _shape(anchor: s_tir.SBlock, data: Any, weight: Any) -> WinogradShape:
    batch, _, height, width, lanes = (int(dim) for dim in data.shape)
    _, out_blocks, out_height, out_width, _ = (int(d) for d in anchor.writes[0].source.shape)
    note = {key: int(anchor.annotations[key]) for key in (TILE, TOP, LEFT)}
    side = round(int(weight.shape[1]) ** 0.5)
    return WinogradShape(
        note[TILE],
        side - note[TILE] + 1,
        batch,
        height,
        width,
        out_height,
        out_width,
        note[TOP],
        note[LEFT],
        int(weight.shape[2]),
        out_blocks,
        lanes,
    )


def _flops(shape: WinogradShape) -> int:
    """Operations of the products."""
    products = shape.squares * shape.places * shape.in_channels
    return 2 * products * shape.out_blocks * shape.lanes


def _body(
    code: WinogradCode, last: s_tir.SBlock, result: Any, *, cores: int, far: bool
) -> Statement:
    """All loops. `last` is the block that reads `result`, the convolution's, and stores."""
    shape, made = code.shape, code.plan
    unrolled = calls(last) == 0

    def put(at: Sequence[Expr], row: Any, j: Expr) -> Statement:
        return _epilogue(last, result, at, row, j)

    def batch(at: Expr) -> Statement:
        first = at * made.batch
        kind = ForKind.PARALLEL if cores > 1 and made.by_channels else ForKind.SERIAL

        def chunk(ch: Expr) -> Statement:
            def place(p: Expr) -> Statement:
                return loop("g", made.groups, lambda g: code.multiply(ch, p, g, ahead=far))

            def group(g: Expr) -> Statement:
                return code.finish(first, ch, g, put, unrolled=unrolled)

            return sequence([loop("p", shape.places, place), loop("g", made.groups, group)])

        def block(b: Expr) -> Statement:
            return loop("g", made.groups, lambda g: code.transform(first, b, g))

        chunks = -(-shape.out_blocks // made.vectors)
        return sequence(
            [loop("b", shape.in_blocks, block, kind), loop("chunk", chunks, chunk, kind)]
        )

    batches = -(-shape.squares // made.batch)
    spread = cores > 1 and not made.by_channels and batches > 1
    return loop("batch", batches, batch, ForKind.PARALLEL if spread else ForKind.SERIAL)


def _epilogue(
    last: s_tir.SBlock, result: Any, at: Sequence[Expr], row: Any, j: Expr
) -> s_tir.SBlockRealize:
    """The block `last` with element `j` of `row` for the `result` that it reads.

    It binds all loops that it is in, as what expands mathematics in it needs.
    """
    axes = [_axis(it.var.name, it.dom.extent) for it in last.iter_vars]
    place = _axis("j", row.shape[0])
    element = tirx.BufferLoad(row, [place.var, axes[-1].var])

    def own(load: ir.TensorLoad) -> Any:
        return element if load.source.same_as(result) else load

    names = {old.var: new.var for old, new in zip(last.iter_vars, axes, strict=True)}
    body = tvm_ffi.structural_map(substitute(last.body, names), [(ir.TensorLoad, own)])
    reads = [_whole(region.source) for region in last.reads if not region.source.same_as(result)]
    writes = [_whole(region.source) for region in last.writes]
    block = s_tir.SBlock([*axes, place], [*reads, _whole(row)], writes, last.name_hint, body)
    return s_tir.SBlockRealize([*at, j], tirx.const(1, "bool"), block)


def _axis(name: str, extent: Any) -> tirx.IterVar:
    domain = ir.Range.from_min_extent(integer(0), integer(int(extent)))
    return tirx.IterVar(domain, tirx.Var(name, "int64"), tirx.IterVar.DataPar)


def _replace(
    sch: s_tir.Schedule,
    kernel: Kernel,
    last: s_tir.SBlock,
    body: Statement,
    code: WinogradCode,
) -> s_tir.Schedule:
    """The kernel with `body` for everything down to the block `last`."""
    func = sch.mod["main"]
    root = func.body.block
    replaced = {*kernel.before, kernel.anchor, last.name_hint}
    statements = root.body.seq if isinstance(root.body, tirx.SeqStmt) else [root.body]
    kept = [stmt for stmt in statements if not _block_names(stmt) & replaced]
    gone = {buffer for name in (*kernel.before, kernel.anchor) for buffer in _written(sch, name)}
    block = s_tir.SBlock(
        [],
        [_whole(region.source) for region in last.reads if region.source not in gone]
        + [_whole(code.data), _whole(code.weight)],
        [_whole(region.source) for region in last.writes],
        WINOGRAD,
        body,
        alloc_buffers=code.buffers,
    )
    mine = s_tir.SBlockRealize([], tirx.const(1, "bool"), block)
    allocated = [buffer for buffer in root.alloc_buffers if buffer not in gone]
    whole = s_tir.SBlock([], [], [], "root", sequence([mine, *kept]), alloc_buffers=allocated)
    made = func.with_body(s_tir.SBlockRealize([], tirx.const(1, "bool"), whole))
    return s_tir.Schedule(IRModule({"main": made}))


def _written(sch: s_tir.Schedule, name: str) -> list[Any]:
    return [region.source for region in sch.get(sch.get_sblock(name)).writes]


def _block_names(stmt: Statement) -> set[str]:
    found: set[str] = set()
    tvm_ffi.structural_walk(stmt, [(s_tir.SBlock, lambda block: found.add(block.name_hint))])
    return found


def _whole(buffer: Any) -> Any:
    return tirx.BufferRegion(buffer, [ir.Range.from_min_extent(0, dim) for dim in buffer.shape])
