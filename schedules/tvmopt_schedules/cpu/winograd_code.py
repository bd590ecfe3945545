"""The loops of Winograd's convolution: two transforms and the matrix products between them.

Everything is said in statements, not by schedule primitives: squares lie in rows of an image, parts
of them outside of it, and the two passes of a transform share their intermediate results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.compute.winograd import transforms
from tvmopt_schedules.cpu.linear_code import emit, program
from tvmopt_schedules.cpu.winograd_plan import Plan, Squares

_STACK = 8 << 10
Statement = Any
Expr = Any
Finish = Callable[[Sequence[Expr], Expr], Statement]
"""Stores a result: indices `n, channel block, y, x, lane`, and its value."""


@dataclass(frozen=True)
class Geometry:
    """What a kernel is made for.

    Attributes:
        squares: the squares of results, with the image around them.
        in_channels: true number.
        out_blocks: blocks of output channels.
        lanes: channels of a block.
        kernel: rows and columns of the kernel.
    """

    squares: Squares
    in_channels: int
    out_blocks: int
    lanes: int
    kernel: int

    @property
    def in_blocks(self) -> int:
        return -(-self.in_channels // self.lanes)


class Code:
    """Emits the parts of a kernel.

    Buffers, with `a * a` places of a square of `a x a` pixels:

    - `seen`: transformed pixels, `[a * a, groups, in_blocks, group, lanes]`
    - `products`: `[a * a, groups, group, vectors, lanes]`, of one chunk of output channels
    """

    def __init__(self, geometry: Geometry, plan: Plan, data: Any, weight: Any) -> None:
        self.g, self.plan, self.data, self.weight = geometry, plan, data, weight
        self.matrices = transforms(geometry.squares.tile, geometry.kernel)
        self.buffers: list[Any] = []
        places = self.matrices.side**2
        lanes = geometry.lanes
        self.seen = self._buffer(
            "seen", (places, plan.groups, geometry.in_blocks, plan.group, lanes)
        )
        self.products = self._buffer(
            "products", (places, plan.groups, plan.group, plan.vectors, lanes)
        )

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Any:
        scope = "global" if prod(shape) * 4 > _STACK else "local"
        buffer = tirx.decl_buffer(shape, "float32", name, scope=scope)
        self.buffers.append(buffer)
        return buffer

    # Pixels

    def transform(self, first: Expr, block: Expr, group: Expr) -> Statement:
        """`B^T d B` of one group of squares and one block of input channels.

        Args:
            first: number of the batch's first square.
            block: the block of channels.
            group: the group of the batch.
        """
        side, lanes = self.matrices.side, self.g.lanes
        squares = self.g.squares
        code = program(self.matrices.image)
        column = self._buffer("column", (side, lanes))
        rows = self._buffer("rows", (side, side, lanes))
        steps = self._buffer("image_steps", (max(1, len(code.steps)), lanes))
        more = self._buffer("image_more", (max(1, len(code.steps)), lanes))

        def square(i: Expr) -> Statement:
            at = tirx.min(first + group * self.plan.group + i, squares.count - 1)
            n, y, x = squares.place(at)
            binds, (n, y, x) = _bind({"n": n, "y": y, "x": x})

            def down(x_at: Expr, j: Expr, read: Callable[[int], Callable[[Expr], Expr]]) -> Statement:
                return _vector(
                    lanes,
                    lambda lane: emit(
                        code,
                        lambda k: read(k)(lane),
                        lambda k, v: _store(rows, [k, j, lane], v),
                        lambda k, v: _store(steps, [k, lane], v),
                        lambda k: _load(steps, [k, lane]),
                    ),
                )

            def one_column(j: Expr) -> Statement:
                def pixel(k: int, lane: Expr) -> Expr:
                    return _load(self.data, [n, block, y + k, x + j, lane])

                whole = down(x + j, j, lambda k: lambda lane: pixel(k, lane))
                guarded: list[Statement] = []
                for k in range(side):
                    inside = tirx.all(y + k >= 0, y + k < squares.height)
                    guarded.append(
                        tirx.IfThenElse(
                            inside,
                            _vector(lanes, lambda lane, k=k: [_store(column, [k, lane], pixel(k, lane))]),
                            _vector(lanes, lambda lane, k=k: [_store(column, [k, lane], _zero())]),
                        )
                    )
                partly = _sequence(
                    [*guarded, down(x + j, j, lambda k: lambda lane: _load(column, [k, lane]))]
                )
                empty = _vector(
                    lanes, lambda lane: [_store(rows, [k, j, lane], _zero()) for k in range(side)]
                )
                rows_inside = tirx.all(y >= 0, y + side <= squares.height)
                body = tirx.IfThenElse(rows_inside, whole, partly)
                return tirx.IfThenElse(tirx.all(x + j >= 0, x + j < squares.width), body, empty)

            def one_row(k: Expr) -> Statement:
                return _vector(
                    lanes,
                    lambda lane: emit(
                        code,
                        lambda j: _load(rows, [k, j, lane]),
                        lambda j, v: _store(self.seen, [k * side + j, group, block, i, lane], v),
                        lambda j, v: _store(more, [j, lane], v),
                        lambda j: _load(more, [j, lane]),
                    ),
                )

            return _sequence([*binds, _loop("j", side, one_column), _loop("k", side, one_row)])

        return _loop("i", self.plan.group, square)

    # Products

    def multiply(self, chunk: Expr, place: Expr, group: Expr) -> Statement:
        """The products of one group of squares with one chunk of output channels at one place."""
        height, width, lanes = self.plan.group, self.plan.vectors, self.g.lanes
        sums = self._buffer("sums", (height, width, lanes))
        tile = [(i, v) for i in range(height) for v in range(width)]

        def step(block: Expr, c: Expr) -> Statement:
            def add(i: int, v: int) -> Callable[[Expr], list[Statement]]:
                def body(lane: Expr) -> list[Statement]:
                    pixel = _load(self.seen, [place, group, block, i, c])
                    weight = _load(self.weight, [chunk, place, block * lanes + c, v * lanes + lane])
                    return [_store(sums, [i, v, lane], _load(sums, [i, v, lane]) + pixel * weight)]

                return body

            return _sequence([_vector(lanes, add(i, v)) for i, v in tile])

        full, rest = divmod(self.g.in_channels, lanes)
        parts = [
            _vector(lanes, lambda lane, i=i, v=v: [_store(sums, [i, v, lane], _zero())])
            for i, v in tile
        ]
        if full:
            parts.append(
                _loop("block", full, lambda b: _loop("c", lanes, lambda c: step(b, c)))
            )
        if rest:
            parts.append(_loop("c", rest, lambda c: step(_int(full), c)))
        parts += [
            _vector(
                lanes,
                lambda lane, i=i, v=v: [
                    _store(self.products, [place, group, i, v, lane], _load(sums, [i, v, lane]))
                ],
            )
            for i, v in tile
        ]
        return _sequence(parts)

    # Results

    def finish(
        self, first: Expr, chunk: Expr, group: Expr, store: Finish, *, unrolled: bool
    ) -> Statement:
        """`A^T m A` of one group and chunk, and what follows the convolution.

        Args:
            first: number of the batch's first square.
            chunk: the chunk of output channels.
            group: the group of the batch.
            store: stores one result.
            unrolled: whether `store` is short enough to be repeated.
        """
        side, tile, lanes = self.matrices.side, self.matrices.tile, self.g.lanes
        squares, plan = self.g.squares, self.plan
        code = program(self.matrices.result)
        half = self._buffer("half", (tile, side, lanes))
        row = self._buffer("row", (tile, lanes))
        steps = self._buffer("result_steps", (max(1, len(code.steps)), lanes))
        more = self._buffer("result_more", (max(1, len(code.steps)), lanes))

        def square(i: Expr, v: Expr) -> Statement:
            at = first + group * plan.group + i
            n, y, x = squares.origin(at)
            binds, (n, y, x) = _bind({"n": n, "y": y, "x": x})
            out_block = chunk * plan.vectors + v

            def one_column(j: Expr) -> Statement:
                return _vector(
                    lanes,
                    lambda lane: emit(
                        code,
                        lambda k: _load(self.products, [k * side + j, group, i, v, lane]),
                        lambda k, value: _store(half, [k, j, lane], value),
                        lambda k, value: _store(steps, [k, lane], value),
                        lambda k: _load(steps, [k, lane]),
                    ),
                )

            def one_row(k: Expr) -> Statement:
                across = _vector(
                    lanes,
                    lambda lane: emit(
                        code,
                        lambda j: _load(half, [k, j, lane]),
                        lambda j, value: _store(row, [j, lane], value),
                        lambda j, value: _store(more, [j, lane], value),
                        lambda j: _load(more, [j, lane]),
                    ),
                )

                def out(j: Expr) -> Statement:
                    return _vector(
                        lanes,
                        lambda lane: [
                            store([n, out_block, y + k, x + j, lane], _load(row, [j, lane]))
                        ],
                    )

                if not unrolled:
                    columns = _loop("j", tirx.min(_int(tile), squares.out_width - x), out)
                elif squares.out_width % tile == 0:
                    columns = _sequence([out(_int(j)) for j in range(tile)])
                else:
                    columns = _sequence(
                        [
                            out(_int(j))
                            if j == 0
                            else tirx.IfThenElse(x + j < squares.out_width, out(_int(j)), None)
                            for j in range(tile)
                        ]
                    )
                return _sequence([across, columns])

            height = (
                _int(tile)
                if squares.out_height % tile == 0
                else tirx.min(_int(tile), squares.out_height - y)
            )
            return _sequence([*binds, _loop("j", side, one_column), _loop("k", height, one_row)])

        vectors = _at_most(plan.vectors, self.g.out_blocks - chunk * plan.vectors, self.g.out_blocks)
        whole = squares.count % plan.squares == 0
        count = (
            _int(plan.group)
            if whole
            else tirx.min(_int(plan.group), squares.count - first - group * plan.group)
        )
        return _loop("i", count, lambda i: _loop("v", vectors, lambda v: square(i, v)))


def _at_most(size: int, left: Expr, total: int) -> Expr:
    return _int(size) if total % size == 0 else tirx.min(_int(size), left)


def _int(value: int) -> Any:
    return tirx.const(value, "int64")


def _zero() -> Any:
    return tirx.const(0.0, "float32")


def _load(buffer: Any, indices: Sequence[Expr]) -> Expr:
    return tirx.BufferLoad(buffer, [_int(i) if isinstance(i, int) else i for i in indices])


def _store(buffer: Any, indices: Sequence[Expr], value: Expr) -> Statement:
    return tirx.BufferStore(buffer, value, [_int(i) if isinstance(i, int) else i for i in indices])


def _sequence(statements: Sequence[Statement]) -> Statement:
    flat = [s for one in statements for s in (one.seq if isinstance(one, tirx.SeqStmt) else [one])]
    return tirx.SeqStmt(flat) if len(flat) > 1 else flat[0]


def _loop(
    name: str, extent: Expr, body: Callable[[Expr], Statement], kind: Any = ForKind.SERIAL
) -> Statement:
    var = tirx.Var(name, "int64")
    size = _int(extent) if isinstance(extent, int) else extent
    return tirx.For(var, _int(0), size, kind, body(var))


def _vector(lanes: int, body: Callable[[Expr], Sequence[Statement]]) -> Statement:
    """A loop over the lanes of a vector for each of the statements: XXX"""
    count = len(body(tirx.Var("lane", "int64")))
    return _sequence(
        [_loop("lane", lanes, lambda lane, k=k: body(lane)[k], ForKind.VECTORIZED) for k in range(count)]
    )


def _bind(values: dict[str, Expr]) -> tuple[list[Statement], list[Expr]]:
    variables = [tirx.Var(name, "int64") for name in values]
    return [tirx.Bind(var, value) for var, value in zip(variables, values.values())], variables
