"""Recurrent layers: ONNX has the projection of the inputs inside of them."""

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmopt.compiler.exporter.draft import Site
from tvmopt.recurrence import ACTIVATIONS, Recurrence, recurrence_of
from tvmopt.rewriting import constant_value, is_op

_DIRECTIONS = {(False,): "forward", (True,): "reverse", (False, True): "bidirectional"}


def write_recurrence(site: Site, module: tvm.IRModule) -> tuple[str, ...]:
    """`LSTM`, `GRU` or `RNN` with the projection in front of it; its results `Y`, `Y_h`, `Y_c`."""
    what = recurrence_of(module[site.call.args[0]])
    if what is None:
        raise site.error("it is a kernel, not an operator; export the graph before LAYOUT")
    arguments = site.call.args[1]
    operands = dict(zip(what.operands, arguments.fields, strict=True))
    x, weights, bias = _projection(site, what, operands["x"])
    directions, _, hidden = (int(size) for size in operands["r"].ty.shape)
    inputs = [
        x,
        site.draft.array(weights, f"{site.name}.W"),
        site.tensor_of(operands["r"], "R"),
        _bias(site, what, bias, operands.get("rb"), (directions, hidden)),
        site.tensor_of(operands["lengths"], "lengths") if what.lengths else "",
        *(site.tensor_of(operands[name], name) for name in what.states),
    ]
    if what.peepholes:
        parts = [site.tensor_of(operands[name], name) for name in what.vectors]
        inputs.append(site.step("Concat", *parts, axis=1))
    names = ["y", *(f"y_{name}" for name in what.states)]
    outputs = tuple(site.draft.fresh(f"{site.output}.{name}") for name in names)
    attrs = _attributes(what, hidden)
    site.draft.node(what.cell, inputs, outputs[0], site.draft.fresh(site.name), **attrs)
    site.draft.nodes[-1].output.extend(outputs[1:])
    return outputs


def _projection(
    site: Site, what: Recurrence, x: relax.Expr
) -> tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The inputs, their weights `[D, G * H, depth]`, and the bias `[D * G * H]`."""
    value, bias = site.graph.producer(x), None
    if is_op(value, "relax.add"):
        bias = constant_value(value.args[1])
        value = site.graph.producer(value.args[0]) if bias is not None else None
    weights = constant_value(value.args[1]) if is_op(value, "relax.matmul") else None
    if weights is None or not is_op(value, "relax.matmul"):
        raise site.error("its inputs are not projected by constant weights")
    split = weights.T.reshape(len(what.reverse), -1, weights.shape[0])
    return site.tensor_of(value.args[0], "x"), split, bias


def _bias(
    site: Site,
    what: Recurrence,
    bias: np.ndarray[Any, Any] | None,
    reset: relax.Expr | None,
    shape: tuple[int, int],
) -> str:
    """`B`: all of it with the inputs, but for what a GRU adds inside its reset."""
    directions, hidden = shape
    rows = what.gates * hidden
    both = np.zeros((directions, 2 * rows), np.float32 if bias is None else bias.dtype)
    if bias is not None:
        both[:, :rows] = bias.reshape(directions, rows)
    if reset is not None:
        values = constant_value(reset)
        if values is None:
            raise site.error("the bias inside of its reset is not constant")
        both[:, -hidden:] = values
    return site.draft.array(both, f"{site.name}.B") if both.any() else ""


def _attributes(what: Recurrence, hidden: int) -> dict[str, Any]:
    functions = [one for per_direction in what.activations for one in per_direction]
    attrs: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": _DIRECTIONS[what.reverse],
        "activations": [one.name for one in functions],
    }
    alphas = [one.alpha for one in functions if ACTIVATIONS[one.name][0] is not None]
    betas = [one.beta for one in functions if ACTIVATIONS[one.name][1] is not None]
    if alphas:
        attrs["activation_alpha"] = alphas
    if betas:
        attrs["activation_beta"] = betas
    if what.clip:
        attrs["clip"] = what.clip
    if what.input_forget:
        attrs["input_forget"] = 1
    if what.cell == "GRU":
        attrs["linear_before_reset"] = int(what.linear_before_reset)
    return attrs
