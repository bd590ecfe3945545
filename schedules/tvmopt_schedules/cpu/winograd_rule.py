"""The loops of Winograd's convolutions, with everything that follows them."""

from typing import Any

from tvm import IRModule, s_tir, tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.blocked_epilogue import calls, close_kernel, schedule_moves
from tvmopt_schedules.cpu.blocks import find_anchor
from tvmopt_schedules.cpu.compute.winograd import LEFT, TILE, TOP, WINOGRAD
from tvmopt_schedules.cpu.guarded_rule import GuardedRule
from tvmopt_schedules.cpu.terms import substitute
from tvmopt_schedules.cpu.winograd_code import Code, Geometry, _int, _loop, _sequence
from tvmopt_schedules.cpu.winograd_plan import Plan, Squares
import os

class Winograd(GuardedRule):
    name = "winograd-nchwc"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        kernel = find_anchor(sch, WINOGRAD)
        if kernel is None:
            return None
        image, products = kernel.before
        anchor = sch.get(sch.get_sblock(kernel.anchor))
        data = sch.get(sch.get_sblock(image)).reads[0].source
        weight = sch.get(sch.get_sblock(products)).reads[1].source
        out = [int(d) for d in anchor.writes[0].source.shape]
        shape = [int(d) for d in data.shape]
        chunks, places, depth, panel = (int(d) for d in weight.shape)
        tile = int(anchor.annotations[TILE])
        squares = Squares(tile, shape[0], shape[2], shape[3], out[2], out[3], int(anchor.annotations[TOP]), int(anchor.annotations[LEFT]))
        geometry = Geometry(squares, depth, out[1], out[4], round(places**.5) - tile + 1)
        vectors = panel // out[4]
        g = eval(os.environ.get("WG", "(14,2)"))
        plan = Plan(g[0], vectors, g[1], bool(len(g) > 2 and g[2]))
        last, moves = close_kernel(sch, kernel)
        schedule_moves(sch, moves, self.machine)
        last_block = sch.get(last)
        unrolled = calls(last_block) == 0
        result = sch.get(sch.get_sblock(kernel.anchor)).writes[0].source
        code = Code(geometry, plan, data, weight)
        body = kernel_body(code, last_block, result, chunks, self.machine.cores > 1, unrolled)
        return replace(sch, {*kernel.before, kernel.anchor, last_block.name_hint}, body, code, data, weight, last_block, result)


def kernel_body(code: Code, last: Any, result: Any, chunks: int, parallel: bool, unrolled: bool) -> Any:
    g, plan = code.g, code.plan
    places = code.matrices.side ** 2
    axes = [it.var for it in last.iter_vars]

    def store(index: Any, value: Any) -> Any:
        from tvm import ir
        import tvm_ffi
        own = last.body
        def swap(load: Any) -> Any:
            return value if load.source.same_as(result) else load
        body = tvm_ffi.structural_map(own, [(ir.TensorLoad, swap)])
        return substitute(body, dict(zip(axes, index, strict=True)))

    batches = -(-g.squares.count // plan.squares)

    def batch(b: Any) -> Any:
        first = b * plan.squares
        kind = ForKind.PARALLEL if parallel and plan.by_channels else ForKind.SERIAL
        def chunk(ch: Any) -> Any:
            mult = _loop("place", places, lambda p: _loop("group", plan.groups, lambda gr: code.multiply(ch, p, gr)))
            fin = _loop("group", plan.groups, lambda gr: code.finish(first, ch, gr, store, unrolled=unrolled))
            return _sequence([mult, fin])
        trans = _loop("blk", g.in_blocks, lambda blk: _loop("group", plan.groups, lambda gr: code.transform(first, blk, gr)), kind)
        parts = [trans, _loop("chunk", chunks, chunk, kind)]
        only = os.environ.get("WONLY")
        return _sequence(parts) if not only else parts[int(only)]

    return _loop("batch", batches, batch, ForKind.PARALLEL if parallel and not plan.by_channels and batches > 1 else ForKind.SERIAL)


def replace(sch: Any, names: Any, body: Any, code: Code, data: Any, weight: Any, last: Any, result: Any) -> s_tir.Schedule:
    func = sch.mod["main"]
    root = func.body.block
    statements = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    kept = [s for s in statements if not (_names(s) & names)]
    reads = [tirx.BufferRegion.full_region(data) if hasattr(tirx.BufferRegion,'full_region') else None]
    from tvm import ir
    full = lambda b: tirx.BufferRegion(b, [ir.Range.from_min_extent(0, d) for d in b.shape])
    block = s_tir.SBlock([], [full(data), full(weight), *[full(r.source) for r in last.reads if not r.source.same_as(result)]], [full(w.source) for w in last.writes], "winograd", body, alloc_buffers=code.buffers)
    mine = s_tir.SBlockRealize([], tirx.const(1, "bool"), block)
    written = {b for b in root.alloc_buffers}
    keep = [b for b in root.alloc_buffers if any(b.same_as(w.source) for w in last.writes) or any(_uses(s, b) for s in kept)]
    new_root = s_tir.SBlock([], [], [], "root", _sequence([mine, *kept]), alloc_buffers=keep)
    new = func.with_body(s_tir.SBlockRealize([], tirx.const(1, "bool"), new_root))
    return s_tir.Schedule(IRModule({"main": new}))

def _uses(stmt: Any, buffer: Any) -> bool:
    from tvm import ir
    import tvm_ffi
    found = []
    tvm_ffi.structural_walk(stmt, [(ir.TensorLoad, lambda n: found.append(n) if n.source.same_as(buffer) else None), (tirx.BufferStore, lambda n: found.append(n) if n.buffer.same_as(buffer) else None)])
    return bool(found)

def _names(stmt: Any) -> set[str]:
    import tvm_ffi
    found: set[str] = set()
    tvm_ffi.structural_walk(stmt, [(s_tir.SBlock, lambda b: found.add(b.name_hint))])
    return found
