"""Vector loops with tails, and reductions with lane-wise partial results."""

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import s_tir, te, tirx

from tvmopt_plugins.target_x86 import X86
from tvmopt_schedules.cpu.code.lanes import BREAKS, LANES, REDUCE_LANES, vectorize_annotated

TARGET = X86("x86-avx2").target()


def _run(sch: s_tir.Schedule, *arrays: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
    result = tvm.runtime.tensor(np.full(out, np.nan, "float32"))
    kernel = tvm.compile(sch.mod, TARGET)
    kernel["main"](*(tvm.runtime.tensor(a) for a in arrays), result)
    return result.numpy()


def _vector_extents(sch: s_tir.Schedule) -> list[int]:
    found: list[int] = []

    def visit(loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.VECTORIZED:
            found.append(int(loop.extent))

    tvm_ffi.structural_walk(sch.mod["main"].body, [(tirx.For, visit)])
    return found


@pytest.mark.parametrize(
    ("length", "vectors"), [(1, []), (5, [5]), (8, [8]), (16, [8]), (19, [8, 3]), (17, [8])]
)
def test_loop_becomes_whole_vectors_and_one_shorter(length: int, vectors: list[int]) -> None:
    x = te.placeholder((length,), name="x")
    sch = s_tir.Schedule(te.create_prim_func([x, te.compute((length,), lambda i: x[i] + 1, "y")]))
    sch.annotate(sch.get_loops("y")[0], LANES, 8)
    sch = vectorize_annotated(sch)
    assert _vector_extents(sch) == vectors
    data = np.arange(length, dtype="float32")
    np.testing.assert_array_equal(_run(sch, data, out=(length,)), data + 1)


def test_kernel_without_annotations_is_returned_as_it_is() -> None:
    x = te.placeholder((8,), name="x")
    sch = s_tir.Schedule(te.create_prim_func([x, te.compute((8,), lambda i: x[i] + 1, "y")]))
    assert _vector_extents(vectorize_annotated(sch)) == []


def test_no_vector_spans_a_break() -> None:
    x = te.placeholder((20,), name="x")
    padded = te.compute(
        (24,), lambda i: tirx.if_then_else(tirx.all(i >= 2, i < 22), x[i - 2], 0.0), "y"
    )
    sch = s_tir.Schedule(te.create_prim_func([x, padded]))
    loop = sch.get_loops("y")[0]
    sch.annotate(loop, LANES, 8)
    sch.annotate(loop, BREAKS, [2, 22])
    sch = vectorize_annotated(sch)
    assert _vector_extents(sch) == [2, 8, 4, 2]
    data = np.arange(20, dtype="float32")
    np.testing.assert_array_equal(_run(sch, data, out=(24,)), np.pad(data, 2))


@settings(max_examples=12)
@given(
    rows=st.integers(1, 5), length=st.integers(1, 150), op=st.sampled_from(["sum", "max", "min"])
)
def test_lane_wise_reduction_equals_numpy(rows: int, length: int, op: str) -> None:
    x = te.placeholder((rows, length), name="x")
    k = te.reduce_axis((0, length), "k")
    reduced = te.compute((rows,), lambda i: getattr(te, op)(x[i, k], axis=k), "y")
    sch = s_tir.Schedule(te.create_prim_func([x, reduced]))
    sch.annotate(sch.get_loops("y")[1], REDUCE_LANES, 8)
    data = np.random.default_rng(length).integers(-9, 9, (rows, length)).astype("float32")
    got = _run(vectorize_annotated(sch), data, out=(rows,))
    np.testing.assert_array_equal(got, getattr(data, op)(axis=1))  # exact: small integers


def test_reduction_over_two_axes_that_are_not_contiguous() -> None:
    x = te.placeholder((4, 5, 6, 19), name="x")
    h, w = te.reduce_axis((0, 5), "h"), te.reduce_axis((0, 19), "w")
    reduced = te.compute((4, 6), lambda i, j: te.sum(x[i, h, j, w], axis=[h, w]), "y")
    sch = s_tir.Schedule(te.create_prim_func([x, reduced]))
    sch.annotate(sch.get_loops("y")[2], REDUCE_LANES, 8)
    data = np.random.default_rng(0).integers(-9, 9, (4, 5, 6, 19)).astype("float32")
    got = _run(vectorize_annotated(sch), data, out=(4, 6))
    np.testing.assert_array_equal(got, data.sum(axis=(1, 3)))


def test_reduction_over_outer_axis_has_neighbouring_rows_as_lanes() -> None:
    x = te.placeholder((7, 21), name="x")
    k = te.reduce_axis((0, 7), "k")
    sch = s_tir.Schedule(
        te.create_prim_func([x, te.compute((21,), lambda i: te.sum(x[k, i], axis=k), "y")])
    )
    block = sch.get_sblock("y")
    row, inner = sch.get_loops(block)
    sch.decompose_reduction(block, inner)
    sch.annotate(row, LANES, 8)
    sch = vectorize_annotated(sch)
    assert _vector_extents(sch) == [8, 8, 5, 5]
    data = np.random.default_rng(0).integers(-9, 9, (7, 21)).astype("float32")
    np.testing.assert_array_equal(_run(sch, data, out=(21,)), data.sum(axis=0))
