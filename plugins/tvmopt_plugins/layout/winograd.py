"""Which convolutions are computed by Winograd's minimal filtering, and in which squares."""

from dataclasses import dataclass
from functools import partial

from tvm import relax

from tvmopt.rewriting import Graph, is_op, shape_of
from tvmopt_plugins.layout.blocked import ANCHOR, Images
from tvmopt_plugins.layout.convolution import Convolution, read_convolution
from tvmopt_schedules.cpu.code.pairs import multiplies_pairs
from tvmopt_schedules.cpu.compute.channel_blocks import blocks_of
from tvmopt_schedules.cpu.compute.winograd import pack_winograd, winograd_nchwc
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.winograd.plan import WinogradShape, direct_cycles, plan

TILES = (2, 4)
"""Results in a row of a square: F(2x2, 3x3) and F(4x4, 3x3)."""

_LEAST_GAIN = 1.15
"""Predicted times are off by about a tenth: less than this may well be a loss."""


@dataclass(frozen=True)
class Winograd:
    """Rewrites 3x3 convolutions with stride 1 where the cost model predicts a gain.

    Attributes:
        machine: the hardware.
        tiles: the squares to choose from; empty for none.
        forced: whether to take the best of `tiles` in any case.
    """

    machine: Machine
    tiles: tuple[int, ...]
    forced: bool

    @classmethod
    def of(cls, option: str, machine: Machine) -> "Winograd":
        """What the pass's option `winograd` asks for."""
        tiles = {"auto": TILES, "off": ()}.get(option) or (
            (int(option),) if option != "off" else ()
        )
        return cls(machine, tiles, option not in ("auto", "off"))

    def __call__(self, value: relax.Expr, graph: Graph, images: Images) -> relax.Expr | None:
        """The kernel for a convolution; None where it stays as it is."""
        if not self.tiles or not is_op(value, "relax.nn.conv2d"):
            return None
        conv = read_convolution(value, graph)
        if isinstance(conv, str) or conv.stored == "int8" or not _fits(conv):
            return None
        if conv.stored == "bfloat16" and multiplies_pairs(self.machine):
            graph.missed(
                "no Winograd convolution: products of bfloat16 are twice as fast directly, and the "
                "transforms would cost them precision"
            )
            return None
        in_channels = conv.weight.shape[1]
        if in_channels < images.block:
            graph.missed(f"no Winograd convolution: {in_channels} input channels fill no vector")
            return None
        candidates = {tile: self._shape(conv, tile, images.block) for tile in self.tiles}
        plans = {tile: plan(self.machine, shape) for tile, shape in candidates.items()}
        tile = min(plans, key=lambda t: plans[t].busiest)
        gain = direct_cycles(self.machine, candidates[tile]) / plans[tile].busiest
        name = f"F({tile}x{tile}, 3x3)"
        if gain < _LEAST_GAIN and not self.forced:
            graph.missed(
                f"no Winograd convolution: {name} is predicted to take "
                f"{1 / gain:.2f} of the direct kernel's time"
            )
            return None
        growth = (tile + 2) ** 2 / 9
        graph.passed(
            f"Winograd convolution {name}: predicted {gain:.1f} times as fast as the direct "
            f"kernel, with weights {growth:.1f} times as large"
        )
        emitted = self._emit(conv, tile, plans[tile].vectors, graph, images)
        return images.leave(graph, emitted, len(conv.weight))

    def _emit(
        self, conv: Convolution, tile: int, vectors: int, graph: Graph, images: Images
    ) -> relax.Expr:
        define = partial(
            winograd_nchwc,
            window=conv.window,
            in_channels=conv.weight.shape[1],
            out_channels=len(conv.weight),
        )
        return graph.bb.call_te(
            define,
            images.enter(graph, conv.data).var,
            relax.const(pack_winograd(conv.weight, tile, images.block, vectors), "float32"),
            primfunc_name_hint="winograd_conv2d",
            primfunc_attrs=ANCHOR,
        )

    def _shape(self, conv: Convolution, tile: int, block: int) -> WinogradShape:
        shape = shape_of(conv.data)
        assert shape is not None
        top, left, _, _ = conv.window.padding
        return WinogradShape(
            tile,
            conv.window.kernel[0],
            shape[0],
            *shape[2:],
            *conv.window.output(*shape[2:]),
            top,
            left,
            shape[1],
            blocks_of(len(conv.weight), block),
            block,
        )


def _fits(conv: Convolution) -> bool:
    window = conv.window
    square = window.kernel == (3, 3) and window.strides == window.dilation == (1, 1)
    return square and conv.groups == 1
