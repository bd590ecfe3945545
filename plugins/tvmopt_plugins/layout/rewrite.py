"""Which operators are computed on blocked channels, and what becomes of the others."""

from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.rewriting import Graph, Rewrite, rebuild, shape_of
from tvmopt_plugins.layout.blocked import Images
from tvmopt_plugins.layout.convolution import convolve
from tvmopt_plugins.layout.elementwise import look_up, map_elements, prelu
from tvmopt_plugins.layout.movement import concat, pad, resize, slice_evenly, take_slice
from tvmopt_plugins.layout.pooling import pool, pool_adaptively, reduce_pixels
from tvmopt_plugins.layout.transposed import convolve_transposed
from tvmopt_plugins.layout.volume import convolve_volume, transposed_in_two_dimensions
from tvmopt_plugins.layout.winograd import Winograd
from tvmopt_schedules.cpu.machine import Machine

if TYPE_CHECKING:
    from tvmopt_plugins.layout import Layout

_REWRITES = (
    convolve,
    convolve_transposed,
    convolve_volume,
    transposed_in_two_dimensions,
    pool,
    pool_adaptively,
    reduce_pixels,
    map_elements,
    look_up,
    prelu,
    concat,
    take_slice,
    slice_evenly,
    pad,
    resize,
)


def block_channels(mod: tvm.IRModule, options: "Layout", ctx: CompileContext) -> tvm.IRModule:
    """Rewrites `main` binding by binding."""
    capabilities = ctx.request.backend.capabilities
    machine = Machine.of(capabilities)
    images = Images(options.block or capabilities.lanes, machine)
    winograd = Winograd.of(options.winograd, machine)

    def bound(rewrite: object) -> Rewrite:
        return lambda value, graph: rewrite(value, graph, images)  # pyright: ignore[reportCallIssue]

    def leave(value: relax.Expr, graph: Graph) -> None:
        _note_leaving(value, graph, images)

    return rebuild(mod, *map(bound, (winograd, *_REWRITES)), leave, source=options, ctx=ctx)


def _note_leaving(value: relax.Expr, graph: Graph, images: Images) -> None:
    """Remarks that an operator needs a blocked image in the plain layout."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return
    if value.op.name in ("relax.call_tir", "relax.split"):
        return
    for arg in value.args:
        image = images.find(graph, arg)
        if image is None:
            continue
        shape = shape_of(arg)
        if shape is not None and shape[2:] != (1, 1):  # a single pixel costs nothing to move
            name = value.op.name.removeprefix("relax.")
            graph.missed(f"leaves the blocked layout: {name} has no blocked form here")
