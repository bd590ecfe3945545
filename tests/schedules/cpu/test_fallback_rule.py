"""What no specific rule takes is scheduled all the same, and computes what it should."""

import numpy as np
import pytest
import tvm
from schedule_harness import compile_relax
from tvm import relax, te, tirx, topi
from tvm.script import tirx as T

from tvmopt_plugins.target_x86 import X86
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.memory.fallback_rule import Fallback

MACHINE = Machine(lanes=8, registers=16, cores=2, l1_bytes=32 << 10, l2_bytes=1 << 20)
TARGET = X86("x86-avx2").target()
RULES = X86("x86-avx2").schedule_rules()
R = relax.op


def _schedule(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return Fallback(MACHINE).apply(func, TARGET, False).mod["main"]


def _run(func: tirx.PrimFunc, *arrays: np.ndarray) -> list[np.ndarray]:
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    tvm.compile(_schedule(func), TARGET)["main"](*tensors)
    return [t.numpy() for t in tensors]


@pytest.mark.parametrize(
    ("name", "emit", "reference"),
    [
        ("sort", lambda v: R.sort(v, -1), lambda a: np.sort(a, -1)),
        ("topk", lambda v: R.topk(v, 5, -1, "values"), lambda a: -np.sort(-a, -1)[:, :5]),
        ("cumsum", lambda v: R.cumsum(v, 1), lambda a: a.cumsum(1)),
        ("cumsum0", lambda v: R.cumsum(v, 0), lambda a: a.cumsum(0)),
    ],
)
def test_sorts_and_scans(name: str, emit, reference, device: str) -> None:
    x = np.random.default_rng(0).standard_normal((13, 40)).astype("float32")
    made = compile_relax(device, [(x.shape, "float32")], lambda bb, v: emit(v[0]))
    np.testing.assert_allclose(made.run(x)[0], reference(x), rtol=1e-5, atol=1e-5)


def test_fallback_is_named_in_the_report() -> None:
    made = compile_relax("x86-avx2", [((4, 9), "float32")], lambda bb, v: R.sort(v[0], -1))
    assert made.rules == ["generic"]
    assert made.fallbacks


def test_reductions_of_different_shapes_in_one_kernel() -> None:
    x = te.placeholder((20, 30), name="x")
    rows, columns = topi.sum(x, 1), topi.max(x, 0)
    total = te.compute((20, 30), lambda i, j: rows[i] * columns[j] + te.exp(x[i, j]), "y")
    data = np.random.default_rng(0).standard_normal((20, 30)).astype("float32")
    got = _run(te.create_prim_func([x, total]), data, np.zeros_like(data))[1]
    exact = data.sum(1)[:, None] * data.max(0)[None] + np.exp(data)
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_reduction_of_pairs() -> None:
    x = te.placeholder((6, 33), name="x")
    data = np.random.default_rng(0).standard_normal((6, 33)).astype("float32")
    got = _run(te.create_prim_func([x, topi.argmax(x, 1)]), data, np.zeros(6, "int32"))[1]
    np.testing.assert_array_equal(got, data.argmax(1))


def test_block_that_carries_a_dependence_is_not_reordered() -> None:
    @T.prim_func(s_tir=True)
    def fibonacci(y: T.Buffer((40,), "int64")) -> None:
        for i in range(40):
            with T.sblock("f"):
                v = T.axis.opaque(40, i)
                T.reads(y[0:40])
                T.writes(y[0:40])
                y[v] = T.if_then_else(v < 2, T.int64(1), y[v - 1] + y[v - 2])

    got = _run(fibonacci, np.zeros(40, "int64"))[0]
    expected = [1, 1]
    while len(expected) < 40:
        expected.append(expected[-1] + expected[-2])
    np.testing.assert_array_equal(got, expected)


def test_function_without_blocks_is_left_alone() -> None:
    @T.prim_func(s_tir=True)
    def plain(y: T.Buffer((4,), "float32")) -> None:
        for i in range(4):
            y[i] = T.float32(2)

    np.testing.assert_array_equal(_run(plain, np.zeros(4, "float32"))[0], np.full(4, 2))


def test_symbolic_shapes() -> None:
    n = te.var("n")
    x = te.placeholder((n, 16), name="x")
    func = te.create_prim_func([x, topi.nn.relu(x)])
    data = np.random.default_rng(0).standard_normal((5, 16)).astype("float32")
    got = _run(func, data, np.zeros_like(data))[1]
    np.testing.assert_array_equal(got, np.maximum(data, 0))


def test_every_kernel_of_non_maximum_suppression_gets_a_rule() -> None:
    bb = relax.BlockBuilder()
    boxes = relax.Var("boxes", relax.TensorType([1, 9, 4], "float32"))
    scores = relax.Var("scores", relax.TensorType([1, 2, 9], "float32"))
    limits = [relax.const(n, t) for n, t in ((3, "int64"), (0.5, "float32"), (0.1, "float32"))]
    with bb.function("main", [boxes, scores]):
        bb.emit_func_output(bb.emit(R.vision.all_class_non_max_suppression(boxes, scores, *limits)))
    mod = relax.transform.LegalizeOps()(bb.finalize())
    kernels = {v: f for v, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
    assert kernels
    for var, func in kernels.items():
        made = next(m for r in RULES if (m := r.apply(func, TARGET, False)) is not None)
        mod.update_func(var, made.mod["main"])
    assert relax.build(mod, TARGET) is not None
