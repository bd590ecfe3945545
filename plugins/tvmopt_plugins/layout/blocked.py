"""Images in the blocked layout, and the ways into it and out of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.rewriting import Graph, shape_of
from tvmopt_schedules.cpu.compute.channel_blocks import blocks_of, join_channels, split_channels
from tvmopt_schedules.cpu.machine import Machine

ANCHOR = {"tvmopt.fusion": "anchor"}
"""Attribute of kernels that compute element-wise consumers on their results."""


ALONE = {"tvmopt.fusion": "opaque"}
"""Attribute of kernels that share no loops with others."""


@dataclass(frozen=True)
class Blocked:
    """An image in the blocked layout.

    Attributes:
        var: the variable, `[N, ceil(C / b), H, W, b]`. What the last block holds beyond `C` is
            undefined and never read for another channel.
        channels: `C`.
    """

    var: relax.Expr
    channels: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The plain shape `[N, C, H, W]`."""
        batch, _, height, width, _ = _static(self.var)
        return batch, self.channels, height, width


class Images:
    """Which images of the graph exist in the blocked layout.

    Attributes:
        block: channels of a block.
        machine: what the kernels are for.
    """

    def __init__(self, block: int, machine: Machine) -> None:
        self.block = block
        self.machine = machine
        self._blocked: dict[relax.Expr, Blocked] = {}
        self._pads: dict[relax.Expr, relax.Call] = {}

    def find(self, graph: Graph, expr: relax.Expr | None) -> Blocked | None:
        """The blocked form of an image if there is one already."""
        while isinstance(expr, relax.Var):
            image = self._blocked.get(expr)
            if image is not None:
                value = graph.producer(image.var)
                visible = value is not None and graph.variable(value) is not None
                return image if visible else None
            expr = graph.producer(expr)  # a variable that only passes another one on
        return None

    def note_pad(self, padded: relax.Expr, pad: relax.Call) -> None:
        """Remembers what a plain image that is blocked, too, was padded from."""
        self._pads[padded] = pad

    def pad_of(self, graph: Graph, expr: relax.Expr | None) -> relax.Expr | None:
        """The `relax.nn.pad` that an image is the result of; else what produces it."""
        while isinstance(expr, relax.Var):
            if expr in self._pads:
                return self._pads[expr]
            expr = graph.producer(expr)  # a variable that only passes another one on
        return expr

    def enter(self, graph: Graph, expr: relax.Expr) -> Blocked:
        """The blocked form of an image; a new kernel makes it where there is none."""
        image = self.find(graph, expr)
        if image is None:
            call = graph.bb.call_te(
                split_channels, expr, self.block, primfunc_name_hint="split_channels"
            )
            image = Blocked(graph.emit(call), _static(expr)[1])
            self._blocked[expr] = image
        return image

    def leave(self, graph: Graph, value: relax.Expr, channels: int) -> relax.Expr:
        """Binds the blocked `value` and returns its plain form, which is dead code if unused."""
        image = Blocked(graph.emit(value), channels)
        call = graph.bb.call_te(
            join_channels, image.var, channels, primfunc_name_hint="join_channels"
        )
        plain = graph.emit(call)
        self._blocked[plain] = image
        return plain

    def is_whole(self, channels: int) -> bool:
        """Whether `channels` fill their blocks."""
        return channels % self.block == 0

    def constant(self, array: np.ndarray[Any, Any]) -> relax.Expr:
        """A constant `[N, C, H, W]` in the blocked layout, with zeros beyond `C`."""
        batch, channels, height, width = array.shape
        blocks = blocks_of(channels, self.block)
        rest = blocks * self.block - channels
        padded = np.pad(array, ((0, 0), (0, rest), (0, 0), (0, 0)))
        split = padded.reshape(batch, blocks, self.block, height, width).transpose(0, 1, 3, 4, 2)
        return relax.const(np.ascontiguousarray(split), array.dtype.name)


def _static(expr: relax.Expr) -> tuple[int, ...]:
    shape = shape_of(expr)
    assert shape is not None
    return shape
