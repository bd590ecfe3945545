"""Recurrent kernels compute what the plain loops compute, for all cells, sizes and ways to share.

The plain loops are held against ONNX Runtime in `tests/compiler/importer`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt import Pass
from tvmopt.compiler.build import build
from tvmopt.compiler.importer.recurrence_loops import recurrence_loops
from tvmopt.recurrence import Activation, Recurrence
from tvmopt_plugins.pack_recurrent import PackRecurrent
from tvmopt_plugins.target_x86 import X86
from tvmopt_schedules.cpu.compute.recurrent import Layer, pack_weight, recurrent_tile
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.recurrent.kernel import recurrent_kernel
from tvmopt_schedules.cpu.recurrent.plan import plan

SIGMOID, TANH = Activation("Sigmoid"), Activation("Tanh")
FORWARD, BOTH = (False,), (False, True)
LSTM = Recurrence("LSTM", FORWARD, ((SIGMOID, TANH, TANH),))
GRU = Recurrence("GRU", FORWARD, ((SIGMOID, TANH),))
RNN = Recurrence("RNN", FORWARD, ((TANH,),))
CORES = Machine(16, 32, 2, 48 << 10, 1 << 20, l3_bytes=32 << 20)


def _both(what: Recurrence, **changed: Any) -> Recurrence:
    return replace(what, reverse=BOTH, activations=what.activations * 2, **changed)


def _name(what: Recurrence) -> str:
    return f"{what.cell}{len(what.reverse)}"


def _operands(what: Recurrence, steps: int, batch: int, hidden: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    directions, rows = len(what.reverse), what.gates * hidden
    shapes = {
        "x": (steps, batch, directions * rows),
        "r": (directions, rows, hidden),
        **dict.fromkeys(what.states, (directions, batch, hidden)),
        **dict.fromkeys(what.vectors, (directions, hidden)),
    }
    arrays = {name: rng.uniform(-1, 1, shape).astype("float32") for name, shape in shapes.items()}
    arrays["r"] /= np.float32(np.sqrt(hidden))
    if what.lengths:
        arrays["lengths"] = rng.integers(0, steps + 1, batch).astype("int32")
    return arrays


def _types(what: Recurrence, arrays: dict[str, np.ndarray]) -> list[relax.TensorType]:
    steps, batch, _ = arrays["x"].shape
    directions, _, hidden = arrays["r"].shape
    state = relax.TensorType([directions, batch, hidden], "float32")
    whole = relax.TensorType([steps, directions, batch, hidden], "float32")
    return [whole, *[state] * len(what.states)]


def _compile(
    device: str,
    what: Recurrence,
    arrays: dict[str, np.ndarray],
    cores: int | None = None,
    passes: Sequence[Pass] = (PackRecurrent(),),
) -> Compiled:
    """The layer with constant weights, as tvmopt compiles it."""
    steps, batch, _ = arrays["x"].shape
    hidden = arrays["r"].shape[-1]

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        callee = bb.add_func(recurrence_loops(what, steps, batch, hidden, "float32"), "layer")
        given = dict(zip([name for name in arrays if name != "r"], inputs, strict=True))
        given["r"] = relax.const(arrays["r"])
        operands = [given[name] for name in what.operands]
        return bb.emit(relax.call_tir(callee, operands, _types(what, arrays)))

    inputs = [(array.shape, array.dtype.name) for name, array in arrays.items() if name != "r"]
    return compile_relax(device, inputs, emit, passes, cores)


def _run_loops(what: Recurrence, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    steps, batch, _ = arrays["x"].shape
    loops = recurrence_loops(what, steps, batch, arrays["r"].shape[-1], "float32")
    built = tvm.compile(
        tvm.IRModule({"main": loops.with_attr("global_symbol", "main")}), tvm.target.Target("llvm")
    )
    shapes = [[int(dim) for dim in ty.shape] for ty in _types(what, arrays)]
    outputs = [tvm.runtime.tensor(np.zeros(shape, "float32")) for shape in shapes]
    built["main"](*[tvm.runtime.tensor(arrays[name]) for name in what.operands], *outputs)
    return [output.numpy() for output in outputs]


def _check(
    device: str, what: Recurrence, steps: int, batch: int, hidden: int, cores: int | None = None
) -> Compiled:
    arrays = _operands(what, steps, batch, hidden)
    made = _compile(device, what, arrays, cores)
    actual = made.run(*[array for name, array in arrays.items() if name != "r"])
    # Gates are sums of terms under 1 / sqrt(H): under 64 roundings of sums under 8, 64 * 8 * 2^-24,
    # which a step passes on at no more than its own size.
    for result, wanted in zip(actual, _run_loops(what, arrays), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=3e-5)
    assert made.rules == ["recurrent"]
    assert not made.fallbacks
    return made


@pytest.mark.parametrize(
    ("what", "hidden"),
    [
        (replace(LSTM, peepholes=True, clip=0.5), 50),
        (_both(LSTM, lengths=True, input_forget=True), 3),
        (replace(GRU, reverse=(True,), lengths=True), 50),
        (_both(GRU, linear_before_reset=True), 50),
        (_both(RNN, lengths=True), 16),
    ],
)
def test_cells_compute_what_the_plain_loops_compute(
    device: str, what: Recurrence, hidden: int
) -> None:
    _check(device, what, 4, 3, hidden)


def test_backends_without_the_kernel_run_the_plain_loops() -> None:
    arrays = _operands(GRU, 2, 1, 5)
    made = _compile("x86-avx2", GRU, arrays, passes=())
    assert made.fallbacks == ["layer"]
    for result, wanted in zip(
        made.run(arrays["x"], arrays["h"]), _run_loops(GRU, arrays), strict=True
    ):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batch", "hidden"), [(1, 64), (1, 200), (19, 32), (8, 100)])
def test_tiles_cover_all_rows_and_units(device: str, batch: int, hidden: int) -> None:
    _check(device, LSTM, 3, batch, hidden)


def test_functions_of_functions_stay_vectors(device: str) -> None:
    softplus = Activation("Softplus")
    what = replace(LSTM, activations=((Activation("ScaledTanh", 0.5, 0.7), softplus, softplus),))
    made = _check(device, what, 2, 1, 32)
    assert "expf" not in made.assembly
    assert "logf" not in made.assembly


@pytest.mark.parametrize("what", [LSTM, GRU, _both(LSTM), _both(GRU)], ids=_name)
def test_cores_share_a_step(what: Recurrence) -> None:
    """The kernel with barriers, on any number of threads; 100 units are no multiple of a share."""
    backend = X86("x86-avx2", {"num-cores": "2"})
    machine = Machine.of(backend.capabilities)
    layer = Layer(what, 5, 2, 100)
    tiles = tuple(recurrent_tile(machine, layer, phase, 2) for phase in what.phases)
    chosen = replace(plan(machine, layer), tiles=tiles, parts=2, turns=True)
    arrays = _operands(what, 5, 2, 100)
    packed = [
        pack_weight(arrays["r"], phase.gates, tile, machine.lanes)
        for phase, tile in zip(what.phases, tiles, strict=True)
    ]
    operands = [arrays["x"], *packed, *[arrays[name] for name in what.operands[2:]]]
    bb = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(array.shape, array.dtype.name))
        for i, array in enumerate(operands)
    ]
    with bb.function("main", params):
        callee = bb.add_func(recurrent_kernel(machine, layer, chosen), "kernel")
        with bb.dataflow():
            result = bb.emit_output(relax.call_tir(callee, params, _types(what, arrays)))
        bb.emit_func_output(result)
    built = build(bb.finalize(), backend.target())
    run = relax.VirtualMachine(built.executable, tvm.cpu())["main"]
    outputs = run(*[tvm.runtime.tensor(array) for array in operands])
    for result, wanted in zip(outputs, _run_loops(what, arrays), strict=True):
        np.testing.assert_allclose(result.numpy(), wanted, rtol=0, atol=3e-5)


def test_small_layers_stay_on_one_core_and_large_ones_do_not() -> None:
    assert plan(CORES, Layer(LSTM, 10, 1, 32)).parts == 1
    assert plan(CORES, Layer(LSTM, 10, 1, 512)).parts == 2


def test_each_core_takes_a_direction() -> None:
    chosen = plan(CORES, Layer(_both(LSTM), 10, 1, 256))
    assert chosen.spread_directions
    assert chosen.parts == 1


def test_a_rest_in_the_level_2_cache_is_read_first() -> None:
    assert plan(CORES, Layer(LSTM, 10, 1, 1024)).turns
    assert not plan(CORES, Layer(LSTM, 10, 1, 64)).turns


def test_code_does_not_grow_with_the_steps(device: str) -> None:
    sizes = [
        len(_compile(device, RNN, _operands(RNN, steps, 1, 16)).assembly) for steps in (30, 300)
    ]
    assert abs(sizes[0] - sizes[1]) < 0.05 * sizes[0]
