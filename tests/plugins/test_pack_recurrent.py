"""The pass pack-recurrent: what it makes of recurrent layers, and what it leaves alone."""

from typing import Any

import numpy as np
from tvm import relax

from tvmopt.compiler.importer.recurrence_loops import recurrence_loops
from tvmopt.recurrence import Activation, Recurrence, recurrence_of
from tvmopt_plugins.pack_recurrent import PackRecurrent

RNN = Recurrence("RNN", (False,), ((Activation("Tanh"),),))


def _module(dtype: str = "float32", *, constant: bool = True) -> Any:
    steps, batch, hidden = 3, 2, 5
    weight = np.random.default_rng(0).standard_normal((1, hidden, hidden)).astype(dtype)
    state = relax.TensorType([1, batch, hidden], dtype)
    params = [
        relax.Var("x", relax.TensorType([steps, batch, hidden], dtype)),
        relax.Var("r", relax.TensorType([1, hidden, hidden], dtype)),
        relax.Var("h", state),
    ]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        callee = bb.add_func(recurrence_loops(RNN, steps, batch, hidden, dtype), "rnn")
        with bb.dataflow():
            given = [params[0], relax.const(weight) if constant else params[1], params[2]]
            types = [relax.TensorType([steps, 1, batch, hidden], dtype), state]
            value = bb.normalize(relax.call_tir(callee, given, types))
            var = relax.DataflowVar("RNN_1", value.ty)
            bb.emit_normalized(relax.VarBinding(var, value))
            result = bb.emit_output(var)
        bb.emit_func_output(result)
    return bb.finalize()


def test_constant_weights_are_packed(check: Any, names: Any) -> None:
    # 5 products a step, each rounded, in another order.
    after = check(PackRecurrent(), _module(), rtol=1e-5, atol=1e-6)
    [call] = [b.value for block in after["main"].body.blocks for b in block.bindings][:1]
    assert recurrence_of(after[call.args[0]]) is None
    assert [int(dim) for dim in call.args[1].fields[1].ty.shape] == [1, 1, 1, 5, 8]
    assert names(after)[0] == "RNN_1"


def test_computed_weights_stay_plain_loops(check: Any) -> None:
    assert check.leaves(PackRecurrent(), _module(constant=False)) == [
        "RNN_1: left as plain loops: its recurrent weights are computed"
    ]


def test_other_types_stay_plain_loops(check: Any) -> None:
    assert check.leaves(PackRecurrent(), _module("float64")) == [
        "RNN_1: left as plain loops: its kernel computes in float32, not in float64"
    ]


def test_a_layer_survives_being_an_attribute() -> None:
    functions = (Activation("HardSigmoid", 0.2, 0.5), Activation("Tanh"))
    what = Recurrence("GRU", (False, True), (functions, functions), clip=0.5, lengths=True)
    assert Recurrence.from_json(what.to_json()) == what
