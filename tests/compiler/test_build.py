"""Weights are taken out of the module, and what is left runs."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.compiler.build import build, lift_weights


def module(weight: np.ndarray, scale: float) -> tvm.IRModule:
    """`x @ weight @ weight * scale`."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, weight.shape[0]), "float32"))
    constant = relax.const(weight)
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, constant))
            again = builder.emit(relax.op.matmul(product, constant))
            scaled = builder.emit(relax.op.multiply(again, relax.const(np.float32(scale))))
            out = builder.emit_output(scaled)
        builder.emit_func_output(out)
    return builder.get()


def test_large_constant_becomes_one_weight_however_often_it_is_read() -> None:
    weight = np.eye(16, dtype=np.float32)
    mod, weights = lift_weights(module(weight, 2.0))
    assert len(weights) == 1
    np.testing.assert_array_equal(weights[0], weight)
    assert len(mod["main"].params) == 2


def _product(first: np.ndarray, second: np.ndarray) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, first.shape[0]), str(first.dtype)))
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, relax.const(first)))
            out = builder.emit_output(relax.op.matmul(product, relax.const(second)))
        builder.emit_func_output(out)
    return builder.get()


def test_equal_constants_become_one_weight() -> None:
    weight = np.eye(16, dtype=np.float32)
    weight[-1, 0] = np.nan  # equal bytes all the same
    mod, weights = lift_weights(_product(weight, weight.copy()))
    assert len(weights) == 1
    assert len(mod["main"].params[-1].ty.fields) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_constants_that_differ_in_one_byte_stay_apart(dtype: str) -> None:
    first = np.zeros((32, 32), dtype)
    second = first.copy()
    second[-1, -1] = -0.0
    _, weights = lift_weights(_product(first, second))
    assert [bool(np.signbit(w[-1, -1])) for w in weights] == [False, True]


def test_equal_bytes_of_another_type_stay_apart() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((100,), "float32"))
    i = relax.Var("i", relax.TensorType((100,), "int32"))
    zeros = [relax.const(np.zeros(100, dtype)) for dtype in ("float32", "int32")]
    with builder.function("main", [x, i]):
        with builder.dataflow():
            sums = [builder.emit(relax.op.add(a, b)) for a, b in zip((x, i), zeros, strict=True)]
            out = builder.emit_output(relax.Tuple(sums))
        builder.emit_func_output(out)
    _, weights = lift_weights(builder.get())
    assert [w.dtype.name for w in weights] == ["float32", "int32"]


def test_small_constants_stay() -> None:
    mod, weights = lift_weights(module(np.eye(4, dtype=np.float32), 2.0))
    assert weights == ()
    assert len(mod["main"].params) == 1


def test_built_model_takes_inputs_then_the_weights() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 16), dtype=np.float32)
    x = rng.standard_normal((2, 16), dtype=np.float32)
    built = build(relax.transform.LegalizeOps()(module(weight, 2.0)), tvm.target.Target("llvm"))
    main = relax.VirtualMachine(built.executable, tvm.cpu())["main"]
    out = main(tvm.runtime.tensor(x), [tvm.runtime.tensor(w) for w in built.weights])
    expected = 2.0 * (x @ weight @ weight)
    # Sums of 16 products, twice: 2 * 16 roundings of 2^-24 relative to the sums of magnitudes.
    bound = 2 * 16 * 2.0**-24 * 2.0 * (abs(x) @ abs(weight) @ abs(weight)).max()
    np.testing.assert_allclose(out.numpy(), expected, atol=bound, rtol=0)
