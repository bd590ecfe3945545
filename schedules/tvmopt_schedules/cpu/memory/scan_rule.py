"""Running sums and products along any axis but the last: one row after the other, in vectors."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import s_tir, tirx
from tvm.tirx import ForKind

from tvmopt_schedules.cpu.code.loops import PARALLEL_WORK
from tvmopt_schedules.cpu.code.statements import (
    Expr,
    Statement,
    bind,
    load,
    loop,
    sequence,
    store,
)
from tvmopt_schedules.cpu.rules.guarded import GuardedRule

SCAN_KERNEL = "tvmopt.scan_kernel"
"""Attribute of a PrimFunc that `scan_kernel` made: it has its loops already."""

_COLUMNS = 1024
"""Neighbouring scans of one piece of work: 4 KiB of a row, so that the row before is in level 1."""

_LANES = 16


def scan_kernel(
    shape: Sequence[int], axis: int, given: str, dtype: str, *, multiplies: bool, exclusive: bool
) -> tirx.PrimFunc:
    """`y[..., k, ...] = x[..., 0, ...] + ... + x[..., k, ...]`, or the product.

    Args:
        shape: of `x` and `y`.
        axis: what `k` stands at; not the last.
        given: type of `x`.
        dtype: type of `y`, in which it is added up.
        multiplies: whether to multiply.
        exclusive: whether element `k` itself is left out: the first is 0, or 1 of a product.
    """
    x: Any = tirx.decl_buffer(shape, given, "x")
    y: Any = tirx.decl_buffer(shape, dtype, "y")
    *around, inner = (size for at, size in enumerate(shape) if at != axis)

    def at(rows: Sequence[Expr], k: Expr, i: Expr) -> list[Expr]:
        return [*rows[:axis], k, *rows[axis:], i]

    def first(rows: Sequence[Expr], i: Expr) -> Statement:
        nothing = tirx.const(int(multiplies), dtype)
        value = nothing if exclusive else load(x, at(rows, 0, i)).astype(dtype)
        return store(y, at(rows, 0, i), value)

    def following(rows: Sequence[Expr], k: Expr, i: Expr) -> Statement:
        before = load(y, at(rows, k, i))
        new = load(x, at(rows, k if exclusive else k + 1, i)).astype(dtype)
        return store(y, at(rows, k + 1, i), before * new if multiplies else before + new)

    def columns(number: Expr, begin: Expr, width: int) -> Statement:
        names, rows = bind({f"r{n}": one for n, one in enumerate(_unravel(number, around))})
        steps = [*names, _row(begin, width, lambda i: first(rows, i))]

        def step(k: Expr) -> Statement:
            return _row(begin, width, lambda i: following(rows, k, i))

        if shape[axis] > 1:
            steps.append(loop("k", shape[axis] - 1, step))
        return sequence(steps)

    pieces, rest = divmod(inner, _COLUMNS)
    count = prod(around)
    kind = ForKind.PARALLEL if prod(shape) >= PARALLEL_WORK else ForKind.SERIAL
    code: list[Statement] = []

    def piece(p: Expr) -> Statement:
        return columns(p // pieces, p % pieces * _COLUMNS, _COLUMNS)

    if pieces:
        code.append(loop("piece", count * pieces, piece, kind))
    if rest:
        code.append(loop("row", count, lambda r: columns(r, pieces * _COLUMNS, rest), kind))
    # TVM looks for a reshape in all that keeps its size, and expects a block.
    root = s_tir.SBlock([], [], [], "root", sequence(code))
    func: Any = tirx.PrimFunc([x, y], s_tir.SBlockRealize([], True, root))  # noqa: FBT003
    func = func.with_attr("tvmopt.fusion", "opaque")
    for name in ("tirx.noalias", "s_tir", SCAN_KERNEL):
        func = func.with_attr(name, True)  # noqa: FBT003 - TVM's signature
    return func


def _unravel(number: Expr, sizes: Sequence[int]) -> list[Expr]:
    """The indices of an element by its number in row-major order."""
    indices: list[Expr] = []
    for position, size in enumerate(sizes):
        inside = prod(sizes[position + 1 :])
        indices.append(number // inside % size if position else number // inside)
    return indices


def _row(begin: Expr, width: int, element: Callable[[Expr], Statement]) -> Statement:
    """`element(i)` for `width` numbers from `begin` on, in vectors and what is left."""
    vectors, rest = divmod(width, _LANES)
    code: list[Statement] = []

    def vector(v: Expr) -> Statement:
        return loop(
            "lane", _LANES, lambda lane: element(begin + v * _LANES + lane), ForKind.VECTORIZED
        )

    if vectors:
        code.append(loop("v", vectors, vector))
    if rest:
        code.append(loop("i", rest, lambda i: element(begin + vectors * _LANES + i)))
    return sequence(code)


class Scan(GuardedRule):
    """Takes what `scan_kernel` made as it is."""

    name = "scan"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        is_made = bool(func.attrs) and SCAN_KERNEL in dict(func.attrs.items())
        return s_tir.Schedule(func) if is_made else None
