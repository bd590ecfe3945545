"""Matrix products with constant weights, which are packed into panels at compile time."""

from typing import Any

import numpy as np
from tvm import te, tirx

from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.code.dots import Dot

MATMUL_PACKED = "matmul_packed"


def pack_weight(weight: np.ndarray[Any, Any], panel: int) -> np.ndarray[Any, Any]:
    """Packs weights `[K, N]` into panels `[ceil(N / panel), K, panel]`, filled up with zeros.

    The result is a view where nothing has to be filled up.
    """
    depth, columns = weight.shape
    panels = -(-columns // panel)
    padded = weight
    if columns % panel:
        padded = np.zeros((depth, panels * panel), weight.dtype)
        padded[:, :columns] = weight
    return padded.reshape(depth, panels, panel).transpose(1, 0, 2)


def matmul_packed(
    x: te.Tensor,
    panels: te.Tensor,
    *others: te.Tensor,
    columns: int,
    dot: Dot | None = None,
) -> te.Tensor:
    """`y[.., m, n] = sum_k x[.., m, k] * w[k, n]`, with `w` packed by `pack_weight`.

    The leading axes and `m` are one axis of rows, so that a batch has no tails of its own.

    Args:
        x: `[.., M, K]`.
        panels: `[P, K, panel]`; with `dot`, pairs or quads of rows `[P, K / s, panel]`; panels of
            float16 and int8 are widened.
        others: for a dot that has them, the marks of the steps `[P, steps]`, and the rows of the
            excess `[rows, elements, panel]`.
        columns: N, without the zeros of the last panel.
        dot: what the panels are packed for; None where they are single numbers.

    Returns:
        `[.., M, N]`.
    """
    lead = [int(dim) for dim in x.shape[:-1]]
    count, depth, panel = (int(dim) for dim in panels.shape)
    rows = int(np.prod(lead, dtype=np.int64))
    elements = dot.elements if dot else 1
    k = te.reduce_axis((0, depth // elements), "k")

    def product(r: tirx.Var, p: tirx.Var, v: tirx.Var) -> Any:
        row = unravel(r, lead)
        if dot is None:
            return te.sum(x(*row, k) * panels[p, k, v].astype(x.dtype), axis=k)
        size = dot.size
        at = [elements * k + number for number in range(elements)]
        left = [dot.join(*(x(*row, size * step + part) for part in range(size))) for step in at]
        operands = [*left, *(panels[p, step, v] for step in at)]
        if dot.marked:
            marks, excess = others
            mark = marks[p, k]
            operands += [mark, *(excess[mark, number, v] for number in range(elements))]
        return te.sum(dot.multiply(*operands), axis=k)

    result = te.compute(
        (rows, count, panel), product, name="matmul", attrs={OP_ANNOTATION: MATMUL_PACKED}
    )

    def unpack(*index: tirx.Var) -> Any:
        *row, n = index
        return result[ravel(row, lead), n // panel, n % panel]

    y: Any = te.compute((*lead, columns), unpack, name="matmul_unpack", tag="injective")
    return y


def packed_rows(panels: te.Tensor, indices: te.Tensor, columns: int) -> te.Tensor:
    """`y[.., k] = w[k, indices[..]]`: columns of weights `[K, N]` that `pack_weight` packed.

    They are the rows of a table `[N, K]` that is also the transposed weight of a matmul, such as
    the word embedding of a language model. An element is `panel` floats from the next one: a row
    comes slower than from a table of its own, which would be stored beside the panels.

    Args:
        panels: `[P, K, panel]`.
        indices: integers of any shape; those out of range give the first or the last row.
        columns: N, without the zeros of the last panel.

    Returns:
        `[.., K]`.
    """
    _, depth, panel = (int(dim) for dim in panels.shape)

    def row(*index: tirx.Var) -> Any:
        *at, k = index
        wanted = indices(*at)
        first, last = (tirx.const(bound, indices.dtype) for bound in (0, columns - 1))
        n = te.max(te.min(wanted, last), first)
        return panels[n // panel, k, n % panel]

    y: Any = te.compute((*indices.shape, depth), row, name="packed_rows", tag="injective")
    return y


def unravel(flat: Any, shape: list[int]) -> list[Any]:
    """Indices into an array of `shape` of its element number `flat`."""
    index: list[Any] = []
    for axis, extent in enumerate(shape):
        inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        at = flat // inner if inner > 1 else flat
        index.append(at % extent if axis > 0 else at)
    return index


def ravel(index: list[Any], shape: list[int]) -> Any:
    """The number of the element at `index` of an array of `shape`."""
    flat: Any = tirx.const(0, "int32") if not index else index[0]
    for at, extent in zip(index[1:], shape[1:], strict=True):
        flat = flat * extent + at
    return flat
