"""The pass fuse-attention: which forms it takes, and what it says of those that it leaves."""

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt_plugins.attention import FuseAttention

op = relax.op
B, H, T, D = 2, 4, 5, 8
HEADS = (B, H, T, D)
ROUNDINGS = 2e-6
"""A weight is off by the rounding of its exponent, at most 20 here, and by the exponential's; a sum
over 5 of them with values up to 3 stays below 40 * 2^-24."""


def c(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def module(body: Any, *shapes: tuple[int, ...], dtypes: tuple[str, ...] = ()) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    kinds = [*dtypes, *["float32"] * (len(shapes) - len(dtypes))]
    params = [
        relax.Var(f"x{i}", relax.TensorType(shape, kind))
        for i, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
    ]
    with bb.function("main", params):
        with bb.dataflow():
            out = body(bb.emit, *params)
            outs = [bb.emit_output(one, "out") for one in (out if type(out) is list else [out])]
        bb.emit_func_output(outs[0] if len(outs) == 1 else relax.Tuple(outs))
    return bb.get()


def product(emit: Any, q: relax.Expr, k: relax.Expr) -> relax.Expr:
    return emit(op.matmul(q, emit(op.permute_dims(k, [0, 1, 3, 2]))))


def attend(emit: Any, scores: relax.Expr, v: relax.Expr) -> relax.Expr:
    return emit(op.matmul(emit(op.nn.softmax(scores, -1)), v))


def test_plain_attention_is_one_kernel(check, ops) -> None:
    def body(emit, q, k, v):
        return attend(emit, product(emit, q, k), v)

    after = check(FuseAttention(), module(body, HEADS, HEADS, HEADS), rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]
    assert check.passed() == ["lv1|lv2|lv3: attention of 8 heads became one kernel"]


MASKS = {
    "padding": (B, 1, 1, T),
    "rows": (T, T),
    "heads": (1, H, T, T),
    "whole": (B, H, T, T),
    "scalar": (1, 1, 1, 1),
}


@pytest.mark.parametrize("shape", MASKS.values(), ids=list(MASKS))
def test_mask_of_any_shape_and_a_scale_are_part_of_it(shape, check, ops) -> None:
    def body(emit, q, k, v, mask):
        scaled = emit(op.multiply(product(emit, q, k), c(0.3)))
        return attend(emit, emit(op.add(scaled, mask)), v)

    before = module(body, HEADS, HEADS, HEADS, shape)
    after = check(FuseAttention(), before, rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]


def test_soft_cap_selection_and_mask_in_front_are_part_of_it(check, ops) -> None:
    allowed = relax.const(np.tri(T, dtype=bool))

    def body(emit, q, k, v, mask):
        capped = emit(op.multiply(emit(op.tanh(product(emit, q, k))), c(4.0)))
        causal = emit(op.where(allowed, capped, c(-1e9)))
        return attend(emit, emit(op.add(mask, causal)), v)

    before = module(body, HEADS, HEADS, HEADS, (B, 1, 1, T))
    after = check(FuseAttention(), before, rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]


@pytest.mark.parametrize("guard", ["isnan", "condition"])
def test_rows_without_keys_are_zero_where_the_exporter_guards_them(guard, check, ops) -> None:
    mask = np.zeros((T, T), "float32")
    mask[2] = -np.inf
    empty = relax.const(np.isinf(mask).all(axis=1, keepdims=True))

    def body(emit, q, k, v):
        weights = emit(op.nn.softmax(emit(op.add(product(emit, q, k), relax.const(mask))), -1))
        test = emit(op.isnan(weights)) if guard == "isnan" else empty
        return op.matmul(emit(op.where(test, c(0.0), weights)), v)

    after = check(FuseAttention(), module(body, HEADS, HEADS, HEADS), rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]


def test_rows_without_keys_are_no_numbers_where_nothing_guards_them(check) -> None:
    mask = np.zeros((T, T), "float32")
    mask[2] = -np.inf

    def body(emit, q, k, v):
        return attend(emit, emit(op.add(product(emit, q, k), relax.const(mask))), v)

    # The comparison wants NaN where the operators one by one give NaN.
    check(FuseAttention(), module(body, HEADS, HEADS, HEADS), rtol=0, atol=ROUNDINGS)


@pytest.mark.parametrize("rows", [1, 5])
def test_repeated_keys_and_values_are_read_once(rows, check, ops) -> None:
    def repeat(emit, x):
        wide = emit(op.broadcast_to(emit(op.reshape(x, (B, 2, 1, T, D))), (B, 2, 2, T, D)))
        return emit(op.reshape(wide, HEADS))

    def body(emit, q, k, v, mask):
        scores = emit(op.add(product(emit, q, repeat(emit, k)), mask))
        return attend(emit, scores, repeat(emit, v))

    few = (B, 2, T, D)
    before = module(body, (B, H, rows, D), few, few, (B, H, rows, T))
    after = check(FuseAttention(), before, rtol=0, atol=ROUNDINGS)
    assert "broadcast_to" not in ops(after)


@pytest.mark.parametrize("shared", [(B, 1, T, D), (1, 1, T, D), (1, H, T, D), (T, D)])
def test_shared_keys_and_values_broadcast(shared, check, ops) -> None:
    def body(emit, q, k, v):
        rank = len(shared)
        axes = [*range(rank - 2), rank - 1, rank - 2]
        scores = emit(op.matmul(q, emit(op.permute_dims(k, axes))))
        return attend(emit, scores, v)

    after = check(FuseAttention(), module(body, HEADS, shared, shared), rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]


def test_keys_that_disagree_with_values_are_not_grouped(check, ops) -> None:
    def body(emit, q, k, v):
        return attend(emit, product(emit, q, k), v)

    before = module(body, HEADS, (B, 1, T, D), HEADS)
    after = check(FuseAttention(), before, rtol=0, atol=ROUNDINGS)
    assert ops(after) == ["call_tir"]


# --- masks that are known ------------------------------------------------------------------------


def _ahead(after: tvm.IRModule) -> list[str]:
    return [line for line in str(after).splitlines() if "tvmopt.ahead" in line]


@pytest.mark.parametrize("hidden", [-np.inf, -1e9])
@pytest.mark.parametrize("form", ["add", "where"])
def test_causal_mask_says_how_far_queries_look(form, hidden, check) -> None:
    allowed = np.tri(T, dtype=bool)
    mask = relax.const(np.where(allowed, 0, hidden).astype("float32"))

    def body(emit, q, k, v):
        scores = product(emit, q, k)
        if form == "add":
            return attend(emit, emit(op.add(scores, mask)), v)
        return attend(emit, emit(op.where(relax.const(allowed), scores, c(hidden))), v)

    after = check(FuseAttention(), module(body, HEADS, HEADS, HEADS), rtol=0, atol=ROUNDINGS)
    assert _ahead(after)


def test_finite_mask_beside_another_hides_nothing_for_good(check) -> None:
    """The other one may take the keys that are left: then all of a row get the same weight."""
    mask = relax.const(np.where(np.tri(T, dtype=bool), 0, -1e9).astype("float32"))

    def body(emit, q, k, v, padding):
        scores = emit(op.add(product(emit, q, k), mask))
        return attend(emit, emit(op.add(scores, padding)), v)

    before = module(body, HEADS, HEADS, HEADS, (B, 1, 1, T))
    after = check(FuseAttention(), before, rtol=0, atol=ROUNDINGS)
    assert not _ahead(after)


# --- what is rounded to bfloat16 ------------------------------------------------------------------


def rounded(emit: Any, x: relax.Expr) -> relax.Expr:
    return emit(op.astype(emit(op.astype(x, "bfloat16")), "float32"))


def in_bfloat16(emit: Any, q: relax.Expr, k: relax.Expr, v: relax.Expr) -> relax.Expr:
    turned = rounded(emit, emit(op.permute_dims(k, [0, 1, 3, 2])))
    scores = emit(op.multiply(emit(op.matmul(rounded(emit, q), turned)), c(0.3)))
    weights = rounded(emit, emit(op.nn.softmax(scores, -1)))
    return emit(op.matmul(weights, rounded(emit, v)))


ONE_NEIGHBOUR = 2.0**-8 * 3
"""A weight that lies between two bfloat16 may be rounded to either of them; values are up to 3."""


def test_roundings_become_part_of_it(check, ops) -> None:
    before = module(in_bfloat16, HEADS, HEADS, HEADS)
    after = check(FuseAttention(), before, rtol=0, atol=ONE_NEIGHBOUR)
    assert ops(after) == ["astype"] * 3 + ["call_tir"]
    assert "attention_rounded" in str(after)  # the weights


def test_rounded_keys_and_values_that_are_repeated_are_read_once(check, ops) -> None:
    def repeat(emit, x):
        wide = emit(op.broadcast_to(emit(op.reshape(x, (B, 2, 1, T, D))), (B, 2, 2, T, D)))
        return emit(op.reshape(wide, HEADS))

    def body(emit, q, k, v):
        return in_bfloat16(emit, q, repeat(emit, k), repeat(emit, v))

    few = (B, 2, T, D)
    before = module(body, HEADS, few, few)
    after = check(FuseAttention(), before, rtol=0, atol=ONE_NEIGHBOUR)
    assert "broadcast_to" not in ops(after)


# --- what stays -----------------------------------------------------------------------------------


def _reason(check, before: tvm.IRModule) -> str:
    (remark,) = check.leaves(FuseAttention(), before)
    return remark.split("attention left as it is: ")[1]


def test_scores_with_another_reader_stay(check) -> None:
    def body(emit, q, k, v):
        scores = product(emit, q, k)
        return [attend(emit, scores, v), op.exp(scores)]

    assert _reason(check, module(body, HEADS, HEADS, HEADS)) == "its scores have another reader"


def test_weights_that_the_model_returns_stay(check) -> None:
    def body(emit, q, k, v):
        weights = emit(op.nn.softmax(product(emit, q, k), -1))
        return [op.matmul(weights, v), op.negative(weights)]

    assert _reason(check, module(body, HEADS, HEADS, HEADS)) == "its weights have another reader"


def test_softmax_over_queries_stays(check) -> None:
    def body(emit, q, k, v):
        return op.matmul(emit(op.nn.softmax(product(emit, q, k), 2)), v)

    why = "its softmax does not run over the keys"
    assert _reason(check, module(body, HEADS, HEADS, HEADS)) == why


def test_softmax_of_something_else_stays(check) -> None:
    def body(emit, x, v):
        return attend(emit, emit(op.cumsum(x, -1)), v)

    why = "between product and softmax stands relax.cumsum"
    assert _reason(check, module(body, (B, H, T, T), HEADS)) == why


@pytest.mark.parametrize("which", ["values", "weights"])
def test_product_of_bfloat16_with_float32_stays(which, check) -> None:
    def body(emit, q, k, v):
        weights = emit(op.nn.softmax(product(emit, q, k), -1))
        if which == "values":
            return op.matmul(weights, rounded(emit, v))
        return op.matmul(rounded(emit, weights), v)

    why = "some of what its products multiply is bfloat16, some float32"
    assert _reason(check, module(body, HEADS, HEADS, HEADS)) == why


def test_half_precision_stays(check) -> None:
    def body(emit, q, k, v):
        return attend(emit, product(emit, q, k), v)

    before = module(body, HEADS, HEADS, HEADS, dtypes=("float16",) * 3)
    assert _reason(check, before) == "float16 is not float32"


def test_matmul_without_softmax_is_nobodys_business(check) -> None:
    assert check.leaves(FuseAttention(), module(product, HEADS, HEADS)) == []
