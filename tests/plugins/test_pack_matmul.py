"""The pass pack-matmul: what it makes of matmuls, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
from tvm import relax
from tvm.script import relax as R

from tvmopt_plugins.pack_matmul import PackMatmul


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _module(*inputs: tuple[tuple[Any, ...], str], emit: Any) -> Any:
    bb = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with bb.function("main", params):
        with bb.dataflow():
            value = bb.normalize(emit(*params))
            var = relax.DataflowVar("MatMul_1", value.ty)
            bb.emit_normalized(relax.VarBinding(var, value))
            result = bb.emit_output(var)
        bb.emit_func_output(result)
    return bb.finalize()


def _call(mod: Any) -> Any:
    """The only kernel call of `main`."""
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    calls = [v for v in values if isinstance(v, relax.Call)]
    assert [call.op.name for call in calls] == ["relax.call_tir"]
    return calls[0]


def test_a_constant_right_hand_side_is_packed_into_panels(check: Any, names: Any) -> None:
    weight = _data(12, 100)
    mod = _module(((1, 5, 12), "float32"), emit=lambda x: R.matmul(x, relax.const(weight)))
    after = check(PackMatmul(), mod, rtol=1e-4, atol=1e-5)
    call = _call(after)
    panels = call.args[1].fields[1].value.numpy()
    count, depth, width = panels.shape
    assert depth == 12
    assert width % 8 == 0
    assert width * (count - 1) < 100 <= width * count
    flat = panels.transpose(1, 0, 2).reshape(12, -1)
    np.testing.assert_array_equal(flat[:, :100], weight)
    assert not flat[:, 100:].any()
    assert "MatMul_1" in names(after)
    assert after[call.args[0]].attrs["tvmopt.fusion"] == "anchor"


def test_a_transposed_constant_is_packed_as_it_is_read(check: Any) -> None:
    weight = _data(20, 12)
    mod = _module(
        ((5, 12), "float32"), emit=lambda x: R.matmul(x, R.permute_dims(relax.const(weight)))
    )
    call = _call(check(PackMatmul(), mod, rtol=1e-4, atol=1e-5))
    flat = call.args[1].fields[1].value.numpy().transpose(1, 0, 2).reshape(12, -1)
    np.testing.assert_array_equal(flat[:, :20], weight.T)


def test_a_constant_with_unit_leading_axes_is_packed(check: Any) -> None:
    mod = _module(
        ((2, 3, 5, 12), "float32"), emit=lambda x: R.matmul(x, relax.const(_data(1, 12, 20)))
    )
    call = _call(check(PackMatmul(), mod, rtol=1e-4, atol=1e-5))
    assert len(call.args[1].fields[1].ty.shape.values) == 3


def test_transposes_of_activations_are_read_in_place(check: Any) -> None:
    def emit(q: Any, k: Any) -> relax.Expr:
        heads = R.permute_dims(q, [0, 2, 1, 3])
        return R.matmul(heads, R.permute_dims(R.permute_dims(k, [0, 2, 1, 3]), [0, 1, 3, 2]))

    shape = ((1, 5, 2, 12), "float32")
    after = check(PackMatmul(), _module(shape, shape, emit=emit), rtol=1e-4, atol=1e-5)
    call = _call(after)
    assert [field.name for field in call.args[1].fields] == ["x0", "x1"]
    assert after[call.args[0]].attrs["tvmopt.fusion"] == "anchor-moved"


def test_a_constant_left_hand_side_is_a_product_of_two_operands(check: Any) -> None:
    mod = _module(((2, 12, 20), "float32"), emit=lambda x: R.matmul(relax.const(_data(5, 12)), x))
    call = _call(check(PackMatmul(), mod, rtol=1e-4, atol=1e-5))
    assert "batch_matmul" in call.args[0].name_hint


def test_a_batch_of_constants_is_no_weight(check: Any) -> None:
    mod = _module(
        ((3, 5, 12), "float32"), emit=lambda x: R.matmul(x, relax.const(_data(3, 12, 20)))
    )
    call = _call(check(PackMatmul(), mod, rtol=1e-4, atol=1e-5))
    assert "batch_matmul" in call.args[0].name_hint


@pytest.mark.parametrize(
    ("left", "right", "dtype", "why"),
    [
        (
            (5, 12),
            (12, 20),
            "float16",
            "float16 x float16 is neither float32 nor uint8 x int8",
        ),
        (
            (5, 12),
            (12, 20),
            "float64",
            "float64 x float64 is neither float32 nor uint8 x int8",
        ),
        ((12,), (12, 20), "float32", "an operand is a vector"),
        ((5, 12), (12,), "float32", "an operand is a vector"),
        ((0, 12), (12, 20), "float32", "an operand is empty"),
    ],
)
def test_other_products_are_left_alone(
    check: Any, left: Any, right: Any, dtype: str, why: str
) -> None:
    mod = _module((left, dtype), (right, dtype), emit=R.matmul)
    assert check.leaves(PackMatmul(), mod) == [f"MatMul_1: left as it is: {why}"]


def test_other_operators_are_no_concern(check: Any) -> None:
    mod = _module(((5, 12), "float32"), emit=R.nn.relu)
    assert check.leaves(PackMatmul(), mod) == []
