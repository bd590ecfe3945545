"""Scaled-dot-product attention as one kernel: the scores of a few query rows at a time.

`y[g, m, :] = softmax_n(score(q[g, m, :] . k[g, n, :], g, m, n)) @ v[g, n, :]`

Query rows come in tiles of `attention_tile(...).rows`. For each tile the scores of all keys are
computed, turned into weights and multiplied with the values while they are in the cache: memory
grows with the number of keys, not with its square. Keys and values are packed once per head, into
vectors of neighbouring keys (for `q . k`) and of neighbouring columns (for `weights @ v`).

Of bfloat16 operands, weights are rounded to bfloat16 too, after they have been divided by their
sum; sums and the softmax are float32. Where the machine has an instruction for it, both products
are made of pairs: neighbours along the depth, and along the keys.

Definitions: `g` numbers query heads of the whole batch, `h` the heads of keys and values; `group`
query heads that follow each other share one of those, and their rows stand below each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.attention.tile import AttentionShape, attention_tile
from tvmopt_schedules.cpu.code.blocks import OP_ANNOTATION
from tvmopt_schedules.cpu.code.pairs import dot_pairs, multiplies_pairs, pair
from tvmopt_schedules.cpu.compute.matmul import ravel, unravel
from tvmopt_schedules.cpu.machine import Machine

ATTENTION = "attention"

AHEAD = "tvmopt.ahead"
"""Annotation of the anchor: how many keys ahead of its own number a query looks, and the queries of
one head, which are numbered by themselves."""

Score = Callable[[Any, Sequence[Any]], Any]
"""The weight's exponent of a scalar product and its index `[*lead, m, n]`."""


IsEmpty = Callable[[Any, Sequence[Any]], Any]
"""Whether a row gives zeros, from the sum of its exponentials and its index `[*lead, m]`."""


@dataclass(frozen=True)
class Operand:
    """A matrix per head as it is stored, and the transpose that brings it into the usual form.

    Attributes:
        tensor: as it is stored.
        axes: in the manner of `numpy.transpose`; the result is `[*lead, row, column]`.
    """

    tensor: te.Tensor
    axes: Sequence[int]

    @property
    def shape(self) -> list[int]:
        """Its shape after the transpose."""
        return [int(self.tensor.shape[axis]) for axis in self.axes]

    def at(self, lead: Sequence[Any], row: Any, column: Any) -> Any:
        """One element; leading axes of extent 1 broadcast."""
        shape = self.shape
        aligned = list(lead)[len(lead) - (len(shape) - 2) :]
        index = [0 if size == 1 else at for at, size in zip(aligned, shape[:-2], strict=True)]
        stored: list[Any] = [0] * len(shape)
        for position, axis in zip([*index, row, column], self.axes, strict=True):
            stored[axis] = position
        return self.tensor(*stored)


def attention(
    q: Operand,
    k: Operand,
    v: Operand,
    lead: Sequence[int],
    group: int,
    scale: float,
    score: Score,
    machine: Machine,
    is_empty: IsEmpty | None = None,
    ahead: int | None = None,
) -> te.Tensor:
    """Attention over `lead` heads, `[*lead, M, Dv]`.

    Args:
        q: queries `[*lead, M, D]`, float32 or bfloat16, as keys and values.
        k: keys `[*heads, D, N]`, transposed as a matrix product wants them.
        v: values `[*heads, N, Dv]`.
        lead: leading axes of the result; `heads` are these with `prod(heads) * group ==
            prod(lead)`, or such that broadcast to them where `group` is 1.
        group: query heads that share one head of keys and values.
        scale: what the scalar products are multiplied with; float32 queries are, in fact.
        score: what stands between the scaled scalar product and the softmax.
        machine: decides the tiles.
        is_empty: rows that give zeros. Without it a row of which all keys are masked out with -inf
            gives NaN, as the softmax does.
        ahead: query `m` gives no weight to keys after number `m + ahead`, so that they may be left
            out; None where it may look at all.
    """
    lanes = machine.lanes
    is_rounded = q.tensor.dtype == "bfloat16"
    products = 2 if is_rounded and multiplies_pairs(machine) else 1
    per_head, depth = q.shape[-2:]
    keys, columns = v.shape[-2:]
    heads = prod(lead) // group
    rows = per_head * group
    tile = attention_tile(machine, AttentionShape(rows, keys, depth, columns, products))
    depth_steps, key_steps = -(-depth // products), -(-keys // products)
    count, vectors, out_vectors = (
        -(-rows // tile.rows),
        -(-keys // lanes),
        -(-columns // lanes),
    )

    def head_of(h: Any, operand: Operand) -> list[Any]:
        if group == 1:
            return unravel(h, list(lead))
        # Axes that all query heads share are broadcast: they stand at the end, or are 1.
        shape = operand.shape[:-2]
        return unravel(h, shape) if prod(shape) == heads else [0] * len(shape)

    def query(h: Any, row: Any) -> list[Any]:
        """`[*lead, m]` of a row."""
        if group == 1:
            return [*unravel(h, list(lead)), row]
        return [*unravel(h * group + row // per_head, list(lead)), row % per_head]

    def row_of(t: Any, r: Any) -> Any:
        row: Any = t * tile.rows + r
        # Rows after the last one repeat it.
        return tirx.min(row, tirx.const(rows - 1, row.ty)) if rows % tile.rows else row

    def zero_after(element: Any, at: Any, limit: int) -> Any:
        if limit % lanes == 0:
            return element
        return tirx.if_then_else(at < limit, element, tirx.const(0, element.ty))

    def factor(read: Callable[[Any], Any], step: Any, limit: int) -> Any:
        """What one step multiplies: a number, or a pair with a zero after the last of `limit`."""
        if products == 1:
            return read(step).astype("float32")
        high = read(2 * step + 1)
        if limit % 2:
            zero = tirx.const(0.0, "bfloat16")
            high = tirx.if_then_else(2 * step + 1 < limit, high, zero)
        return pair(read(2 * step), high)

    multiply: Callable[[Any, Any], Any] = dot_pairs if products == 2 else lambda a, b: a * b

    def pack_q(h: tirx.Var, t: tirx.Var, r: tirx.Var, d: tirx.Var) -> Any:
        *at, m = query(h, row_of(t, r))
        element = factor(lambda column: q.at(at, m, column), d, depth)
        return element if scale == 1 or is_rounded else element * tirx.const(scale, "float32")

    def pack_k(h: tirx.Var, u: tirx.Var, d: tirx.Var, lane: tirx.Var) -> Any:
        n = u * lanes + lane
        return zero_after(factor(lambda row: k.at(head_of(h, k), row, n), d, depth), n, keys)

    def pack_v(h: tirx.Var, u: tirx.Var, n: tirx.Var, lane: tirx.Var) -> Any:
        c = u * lanes + lane
        return zero_after(factor(lambda row: v.at(head_of(h, v), row, c), n, keys), c, columns)

    queries = te.compute((heads, count, tile.rows, depth_steps), pack_q, name="attention_q")
    packed_k = te.compute((heads, vectors, depth_steps, lanes), pack_k, name="attention_k")
    packed_v = te.compute((heads, out_vectors, key_steps, lanes), pack_v, name="attention_v")

    d = te.reduce_axis((0, depth_steps), "d")
    scores = te.compute(
        (heads, count, tile.rows, vectors, lanes),
        lambda h, t, r, u, lane: te.sum(
            multiply(queries[h, t, r, d], packed_k[h, u, d, lane]), axis=d
        ),
        name="attention_scores",
    )

    def exponent(h: tirx.Var, t: tirx.Var, r: tirx.Var, n: tirx.Var) -> Any:
        product = scores[h, t, r, n // lanes, n % lanes]
        if is_rounded and scale != 1:
            product = product * tirx.const(scale, "float32")
        return score(product, [*query(h, row_of(t, r)), n])

    exponents = te.compute((heads, count, tile.rows, keys), exponent, name="attention_exponent")
    n_max, n_sum = (te.reduce_axis((0, keys), "n") for _ in range(2))
    n = te.reduce_axis((0, key_steps), "n")
    per_row = (heads, count, tile.rows)
    largest = te.compute(
        per_row, lambda h, t, r: te.max(exponents[h, t, r, n_max], axis=n_max), name="attention_max"
    )
    weights = te.compute(
        (*per_row, keys),
        lambda h, t, r, n: te.exp(exponents[h, t, r, n] - largest[h, t, r]),
        name="attention_weights",
    )
    total = te.compute(
        per_row, lambda h, t, r: te.sum(weights[h, t, r, n_sum], axis=n_sum), name="attention_sum"
    )
    inverse = te.compute(
        per_row,
        lambda h, t, r: tirx.const(1.0, "float32") / total[h, t, r],
        name="attention_inverse",
    )

    def rounded(h: tirx.Var, t: tirx.Var, r: tirx.Var, n: tirx.Var) -> Any:
        weight = (weights[h, t, r, n] * inverse[h, t, r]).astype("bfloat16")
        if products == 1:
            return weight.astype("float32")
        zero = tirx.const(0.0, "bfloat16")
        return tirx.if_then_else(n < keys, weight, zero) if keys % 2 else weight

    factors = (
        te.compute((*per_row, key_steps * products), rounded, name="attention_rounded")
        if is_rounded
        else weights
    )

    def weight_of(h: tirx.Var, t: tirx.Var, r: tirx.Var) -> Any:
        return factor(lambda at: factors[h, t, r, at], n, key_steps * products)

    product = te.compute(
        (heads, count, tile.rows, out_vectors, lanes),
        lambda h, t, r, u, lane: te.sum(
            multiply(weight_of(h, t, r), packed_v[h, u, n, lane]), axis=n
        ),
        name="attention_product",
        attrs={OP_ANNOTATION: ATTENTION, **({} if ahead is None else {AHEAD: [ahead, per_head]})},
    )
    t_rows = tile.rows

    def normalized(h: tirx.Var, m: tirx.Var, c: tirx.Var) -> Any:
        at = (h, m // t_rows, m % t_rows)
        value = product(*at, c // lanes, c % lanes)
        if not is_rounded:
            value = value * inverse(*at)
        if is_empty is None:
            return value
        return tirx.Select(is_empty(total(*at), query(h, m)), tirx.const(0.0, "float32"), value)

    result = te.compute((heads, rows, columns), normalized, name="attention_rows")

    def unstack(*index: tirx.Var) -> Any:
        *at, m, c = index
        g: Any = ravel(list(at), list(lead)) if at else 0
        return result[g, m, c] if group == 1 else result[g // group, g % group * per_head + m, c]

    y: Any = te.compute((*lead, per_head, columns), unstack, name="attention", tag="injective")
    return y
