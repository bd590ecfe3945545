"""The loops of Winograd's convolution: two transforms and the matrix products between them.

They are written as statements, not by schedule primitives: squares lie at the edges of an image or
beyond it, and the two passes of a transform share what lies between them.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import tirx

from tvmopt_schedules.cpu.code.statements import (
    Expr,
    Statement,
    bind,
    choose,
    index,
    integer,
    load,
    loop,
    sequence,
    store,
    vector,
)
from tvmopt_schedules.cpu.compute.winograd import transforms
from tvmopt_schedules.cpu.winograd.linear_code import Program, emit, program
from tvmopt_schedules.cpu.winograd.plan import Plan, WinogradShape

_STACK_BYTES = 8 << 10
_READ, _INTO_LEVEL_2, _DATA = 0, 2, 1  # operands of LLVM's prefetch
_LINE_BYTES = 64

Element = Callable[[int, Expr], Expr]
"""An element of a vector of the transforms, and its lane."""

Store = Callable[[Sequence[Expr], Any, Expr], Statement]
"""Stores a result at `[n, channel block, y, x, lane]`: the element `[j, lane]` of a buffer, `j`."""


class WinogradCode:
    """Emits the parts of a kernel.

    With `p` the places of a square of `a x a` pixels, the buffers are

    - `seen`: transformed pixels of a batch, `[p, groups, in_blocks, group, lanes]`
    - `products`: of a batch and a chunk of output channels, `[p, groups, group, vectors, lanes]`

    Attributes:
        buffers: all that the kernel needs besides its operands.
    """

    def __init__(self, shape: WinogradShape, plan: Plan, data: Any, weight: Any) -> None:
        self.shape, self.plan, self.data, self.weight = shape, plan, data, weight
        self.matrices = transforms(shape.tile, shape.kernel)
        self.buffers: list[Any] = []
        lanes = shape.lanes
        self.seen = self._buffer(
            "seen", shape.places, plan.groups, shape.in_blocks, plan.group, lanes
        )
        self.products = self._buffer(
            "products", shape.places, plan.groups, plan.group, plan.vectors, lanes
        )

    def transform(self, first: Expr, block: Expr, group: Expr) -> Statement:
        """`B^T d B` of a group of squares in one block of input channels.

        Columns outside of the image are zeros; only squares at the upper and lower edge look at
        each row. The last batch is filled up with copies of the last square.

        Args:
            first: number of the batch's first square.
            block: the block of channels.
            group: the group in the batch.
        """
        shape, side, lanes = self.shape, self.shape.side, self.shape.lanes
        code = program(self.matrices.image)
        rows = self._buffer("rows", side, side, lanes)
        column = self._buffer("column", side, lanes)

        def square(i: Expr) -> Statement:
            at = tirx.min(first + group * self.plan.group + i, shape.squares - 1)
            n, y, x = shape.origin(at)
            names, (n, y, x) = bind({"n": n, "y": y - shape.top, "x": x - shape.left})

            def pixel(j: Expr, k: int, lane: Expr) -> Expr:
                return load(self.data, [n, block, y + k, x + j, lane]).astype("float32")

            def down(j: Expr, read: Element) -> Statement:
                return self._apply(
                    code, "down", read, lambda k, lane, v: store(rows, [k, j, lane], v)
                )

            def copy(j: Expr, k: int) -> Statement:
                inside = tirx.all(y + k >= 0, y + k < shape.height)
                return choose(
                    inside,
                    vector(lanes, lambda lane: store(column, [k, lane], pixel(j, k, lane))),
                    vector(lanes, lambda lane: store(column, [k, lane], _zero())),
                )

            def one_column(j: Expr) -> Statement:
                whole = down(j, lambda k, lane: pixel(j, k, lane))
                copies = [copy(j, k) for k in range(side)]
                partly = sequence([*copies, down(j, lambda k, lane: load(column, [k, lane]))])
                outside = [
                    vector(lanes, lambda lane, k=k: store(rows, [k, j, lane], _zero()))
                    for k in range(side)
                ]
                return choose(
                    tirx.all(x + j >= 0, x + j < shape.width),
                    choose(tirx.all(y >= 0, y + side <= shape.height), whole, partly),
                    sequence(outside),
                )

            def one_row(k: Expr) -> Statement:
                return self._apply(
                    code,
                    "across",
                    lambda j, lane: load(rows, [k, j, lane]),
                    lambda j, lane, v: store(self.seen, [k * side + j, group, block, i, lane], v),
                )

            return sequence([*names, loop("j", side, one_column), loop("k", side, one_row)])

        return loop("i", self.plan.group, square)

    def multiply(self, chunk: Expr, place: Expr, group: Expr, *, ahead: bool) -> Statement:
        """The products of a group of squares with a chunk of output channels at one place.

        Args:
            chunk: the chunk of output channels.
            place: the place in a square.
            group: the group in the batch.
            ahead: whether to ask for the weights of the next place.
        """
        height, width, lanes = self.plan.group, self.plan.vectors, self.shape.lanes
        sums = self._buffer("sums", height, width, lanes)
        tile = [(i, v) for i in range(height) for v in range(width)]

        def step(block: Expr, c: Expr) -> Statement:
            def add(i: int, v: int, lane: Expr) -> Statement:
                pixel = load(self.seen, [place, group, block, i, c])
                weight = load(self.weight, [chunk, place, block * lanes + c, v * lanes + lane])
                return store(sums, [i, v, lane], load(sums, [i, v, lane]) + pixel * weight)

            asks = self._ask(chunk, place, group, block * lanes + c) if ahead else []
            adds = [vector(lanes, lambda lane, i=i, v=v: add(i, v, lane)) for i, v in tile]
            return sequence([*asks, *adds])

        full, rest = divmod(self.shape.in_channels, lanes)
        parts = [
            vector(lanes, lambda lane, i=i, v=v: store(sums, [i, v, lane], _zero()))
            for i, v in tile
        ]
        if full:
            parts.append(loop("block", full, lambda b: loop("c", lanes, lambda c: step(b, c))))
        if rest:
            parts.append(loop("c", rest, lambda c: step(integer(full), c)))
        for i, v in tile:
            at = [place, group, i, v]
            parts.append(
                vector(
                    lanes,
                    lambda lane, i=i, v=v, at=at: store(
                        self.products, [*at, lane], load(sums, [i, v, lane])
                    ),
                )
            )
        return sequence(parts)

    def _ask(self, chunk: Expr, place: Expr, group: Expr, c: Expr) -> list[Statement]:
        """Asks for a part of the next place's weights; the groups together ask for all of them.

        Places follow each other in memory. What lies beyond the last is no harm: a prefetch does
        not fault.
        """
        panel = self.plan.vectors * self.shape.lanes
        share = -(-panel // self.plan.groups)
        at = (group * self.shape.in_channels + c) * share
        asks: list[Statement] = []
        for line in range(0, share, _LINE_BYTES // 4):
            target = load(self.weight, [chunk, place + 1, integer(0), at + line])
            address = tirx.address_of(target)
            call = tirx.call_intrin("void", "tirx.prefetch", address, _READ, _INTO_LEVEL_2, _DATA)
            asks.append(tirx.Evaluate(call))
        return asks

    def finish(
        self, first: Expr, chunk: Expr, group: Expr, put: Store, *, unrolled: bool
    ) -> Statement:
        """`A^T m A` of a group and a chunk, and what follows the convolution.

        Args:
            first: number of the batch's first square.
            chunk: the chunk of output channels.
            group: the group in the batch.
            put: stores one result.
            unrolled: whether what `put` makes is short enough to be repeated.
        """
        shape, plan = self.shape, self.plan
        side, tile, lanes = shape.side, shape.tile, shape.lanes
        code = program(self.matrices.result)
        half = self._buffer("half", tile, side, lanes)
        row = self._buffer("row", tile, lanes)

        def square(i: Expr, v: Expr) -> Statement:
            n, y, x = shape.origin(first + group * plan.group + i)
            names, (n, y, x) = bind({"n": n, "y": y, "x": x})

            def one_column(j: Expr) -> Statement:
                return self._apply(
                    code,
                    "down",
                    lambda k, lane: load(self.products, [k * side + j, group, i, v, lane]),
                    lambda k, lane, value: store(half, [k, j, lane], value),
                )

            def one_row(k: Expr) -> Statement:
                across = self._apply(
                    code,
                    "across",
                    lambda j, lane: load(half, [k, j, lane]),
                    lambda j, lane, value: store(row, [j, lane], value),
                )

                def out(j: Expr) -> Statement:
                    at = [n, chunk * plan.vectors + v, y + k, x + j]
                    return vector(lanes, lambda lane: put([*at, lane], row, index(j)))

                if not unrolled:
                    return sequence([across, loop("j", _within(tile, shape.out_width, x), out)])
                even = shape.out_width % tile == 0
                stores = [
                    out(j) if even or j == 0 else choose(x + j < shape.out_width, out(j))
                    for j in range(tile)
                ]
                return sequence([across, *stores])

            height = _within(tile, shape.out_height, y)
            return sequence([*names, loop("j", side, one_column), loop("k", height, one_row)])

        vectors = _within(plan.vectors, shape.out_blocks, chunk * plan.vectors)
        count = integer(plan.group)
        if shape.squares % plan.batch:
            left = shape.squares - first - group * plan.group
            count = tirx.max(tirx.min(count, left), integer(0))
        return loop("i", count, lambda i: loop("v", vectors, lambda v: square(i, v)))

    def _apply(
        self,
        code: Program,
        name: str,
        read: Element,
        write: Callable[[int, Expr, Expr], Statement],
    ) -> Statement:
        """One pass of a transform on vectors."""
        lanes = self.shape.lanes
        steps = self._buffer(f"{name}_steps", max(1, len(code.steps)), lanes)
        return sequence(
            emit(
                code,
                lambda body: vector(lanes, body),
                read,
                write,
                lambda k, lane, v: store(steps, [k, lane], v),
                lambda k, lane: load(steps, [k, lane]),
            )
        )

    def _buffer(self, name: str, *shape: int) -> Any:
        # What is local TVM does not merge with other buffers: LLVM holds it in registers.
        scope = "local" if prod(shape) * 4 <= _STACK_BYTES else "global"
        buffer = tirx.decl_buffer(shape, "float32", name, scope=scope)
        self.buffers.append(buffer)
        return buffer


def _within(size: int, total: int, begin: Expr) -> Expr:
    """How much of `size` from `begin` on lies within `total`."""
    whole = integer(size)
    return whole if total % size == 0 else tirx.min(whole, total - begin)


def _zero() -> Expr:
    return tirx.const(0.0, "float32")
