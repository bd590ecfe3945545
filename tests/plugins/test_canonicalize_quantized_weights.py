"""canonicalize: weights in few bits."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.rewriting import attrs_of, constant_value
from tvmopt_plugins.canonicalize import Canonicalize


def product(
    scale: np.ndarray, axis: int, *, computed: bool = False, shared: bool = False
) -> tvm.IRModule:
    """`x @ transpose(dequantize(w))` with a constant or computed `w` of int8, which may be an
    output, too.
    """
    weight = np.random.default_rng(0).integers(-100, 100, (5, 8)).astype("int8")
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 8), "float32"))
    w = relax.Var("w", relax.TensorType(weight.shape, "int8"))
    with bb.function("main", [x, w] if computed else [x]):
        with bb.dataflow():
            zero = relax.const(np.int8(3), "int8")
            stored = w if computed else relax.const(weight, "int8")
            real = bb.emit(
                relax.op.dequantize(stored, relax.const(scale, "float32"), zero, axis=axis), "dq"
            )
            turned = bb.emit(relax.op.permute_dims(real, [1, 0]), "turn")
            result = relax.op.matmul(x, turned)
            out = bb.emit_output(relax.Tuple([bb.emit(result), real]) if shared else result)
        bb.emit_func_output(out)
    return bb.get()


@pytest.mark.parametrize(
    ("scale", "axis", "after"),
    [
        (np.float32(0.1), 0, None),
        (np.arange(1, 6, dtype="float32"), 0, 1),
        (np.ones(8, "float32"), 1, 0),
    ],
)
def test_quantized_weight_is_stored_as_its_product_reads_it(check, ops, scale, axis, after) -> None:
    mod = check(Canonicalize(), product(np.asarray(scale), axis))
    assert ops(mod) == ["dequantize", "matmul"]
    call = mod["main"].body.blocks[0].bindings[0].value
    weight = constant_value(call.args[0])
    assert weight is not None
    assert weight.dtype == np.int8
    assert weight.shape == (8, 5)
    if after is not None:
        assert attrs_of(call).axis == after


def test_computed_weight_is_transposed_where_it_was(check) -> None:
    assert check.leaves(Canonicalize(), product(np.asarray(np.float32(1)), 0, computed=True)) == []


def test_weight_that_others_read_stays_as_it_is(check) -> None:
    (why,) = check.leaves(Canonicalize(), product(np.asarray(np.float32(1)), 0, shared=True))
    assert "others read the weight" in why
