from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import InputError, TensorSpec
from tvmopt.compiler.archive import ALIGNMENT
from tvmopt.compiler.executor import Executor, check_inputs
from tvmopt.compiler.linking import export_library

SPECS = (TensorSpec("pixels", (2, 3), "float32"), TensorSpec("mask", (2,), "int64"))


def good():
    return {"pixels": np.zeros((2, 3), np.float32), "mask": np.zeros(2, np.int64)}


def aligned(shape, dtype="float32"):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def test_fitting_inputs_pass():
    check_inputs(good(), SPECS)


def test_a_misspelt_input_gets_the_nearest_name():
    inputs = good()
    inputs["pixel"] = inputs.pop("pixels")
    with pytest.raises(
        InputError, match=r"no input 'pixel'; its inputs are pixels, mask"
    ) as caught:
        check_inputs(inputs, SPECS)
    assert caught.value.hint == "did you mean 'pixels'?"


def test_a_missing_input_is_described():
    inputs = good()
    del inputs["mask"]
    with pytest.raises(InputError, match="'mask' is missing") as caught:
        check_inputs(inputs, SPECS)
    assert caught.value.hint == "give it as int64[2]"


def test_another_dtype_is_not_converted_in_silence():
    with pytest.raises(InputError, match="'mask' has dtype int32, expected int64") as caught:
        check_inputs(good() | {"mask": np.zeros(2, np.int32)}, SPECS)
    assert "astype('int64')" in str(caught.value.hint)


def test_another_shape_is_not_broadcast_in_silence():
    with pytest.raises(InputError, match=r"'pixels' has shape \[1, 3\], expected \[2, 3\]") as e:
        check_inputs(good() | {"pixels": np.zeros((1, 3), np.float32)}, SPECS)
    assert "--input-shapes" in str(e.value.hint)


def test_as_many_elements_in_another_shape_get_a_reshape_as_hint():
    with pytest.raises(InputError) as caught:
        check_inputs(good() | {"pixels": np.zeros((3, 2), np.float32)}, SPECS)
    assert "reshape([2, 3])" in str(caught.value.hint)


def test_a_list_is_no_array():
    with pytest.raises(InputError, match="'mask' is a list, not a NumPy array"):
        check_inputs(good() | {"mask": [0, 0]}, SPECS)


def test_inputs_may_be_unaligned_strided_read_only_or_foreign_endian(small, small_package):
    inputs = small_package.sample_inputs()
    expected = small.expected(inputs)
    read_only = inputs["x"].copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"1" + inputs["x"].tobytes(), np.float32, offset=1).reshape(4, 8)
    variants = [
        np.asfortranarray(inputs["x"]),
        np.repeat(inputs["x"], 2, axis=1)[:, ::2],
        inputs["x"].astype(">f4"),
        read_only,
        unaligned,
    ]
    for x in variants:
        np.testing.assert_allclose(small_package.run({**inputs, "x": x})["y"], expected, atol=1e-5)


def test_an_aligned_input_is_read_where_it_lies(small_package):
    x = aligned((4, 8))
    inputs = small_package.sample_inputs() | {"x": x}
    staged = small_package.executor.stage(inputs)
    assert np.from_dlpack(staged[0]).ctypes.data == x.ctypes.data


def test_a_later_run_leaves_earlier_outputs_alone(small, small_package):
    first, second = small_package.sample_inputs(1), small_package.sample_inputs(2)
    y = small_package.run(first)["y"]
    small_package.run(second)
    np.testing.assert_allclose(y, small.expected(first), atol=1e-5)


def test_threads_that_share_a_package_get_their_own_results(small, small_package):
    inputs = [small_package.sample_inputs(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda i: small_package.run(i, threads=1)["y"], inputs * 5))
    for given, y in zip(inputs * 5, outputs, strict=True):
        np.testing.assert_allclose(y, small.expected(given), atol=1e-5)


@pytest.fixture
def passing_through(tmp_path):
    """A model whose outputs are its input, seen as another shape, twice."""
    spec = TensorSpec("x", (64, 32), "float32")
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(relax.ShapeExpr([64, 32]), "float32"))
    with bb.function("main", [x]):
        flat = bb.emit(relax.op.reshape(x, (2048,)))
        bb.emit_func_output(relax.Tuple([flat, flat]))
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu"})
    export_library(tvm.compile(bb.get(), target), tmp_path / "library.so")
    outputs = (TensorSpec("a", (2048,), "float32"), TensorSpec("b", (2048,), "float32"))
    return Executor(tmp_path / "library.so", memoryview(bytearray()), (), (spec,), outputs)


@pytest.mark.parametrize("make", [aligned, lambda shape: np.zeros(shape, np.float32)])
def test_an_output_never_shares_memory_with_an_input_or_another_output(passing_through, make):
    x = make((64, 32))
    outputs = passing_through.run({"x": x}, 1)
    assert not np.may_share_memory(outputs["a"], x)
    assert not np.may_share_memory(outputs["a"], outputs["b"])
    passing_through.run({"x": np.ones((64, 32), np.float32)}, 1)
    assert not outputs["a"].any()
