"""Recurrent layers: one matmul projects the inputs of all steps, one call does the rest."""

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import Expr
from tvm.ir.expr import GenericConst
from tvm.relax import op

from tvmopt.compiler.importer.node import Converter, Node, constant, is_float, scalar
from tvmopt.compiler.importer.recurrence_loops import recurrence_loops
from tvmopt.recurrence import ACTIVATIONS, Activation, Cell, Recurrence

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

_DEFAULTS: dict[Cell, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}

_INITIAL_H, _INITIAL_C, _PEEPHOLES = 5, 6, 7


def lstm(node: Node) -> Sequence[Expr]:
    """`Y`, `Y_h` and `Y_c` of a long short-term memory."""
    return _convert(node, "LSTM")


def gru(node: Node) -> Sequence[Expr]:
    """`Y` and `Y_h` of a gated recurrent unit."""
    return _convert(node, "GRU")


def rnn(node: Node) -> Sequence[Expr]:
    """`Y` and `Y_h` of a simple recurrent network."""
    return _convert(node, "RNN")


def _convert(node: Node, cell: Cell) -> list[Expr]:
    what, lengths = _describe(node, cell)
    batch_first = bool(node.attribute("layout", 0))
    x = op.permute_dims(node[0], [1, 0, 2]) if batch_first else node[0]
    x = node.emit(x)
    steps, batch, depth = (int(size) for size in x.ty.shape)
    directions, rows, hidden = node.shape(2)
    _check_shapes(node, what, (directions, rows, hidden), depth)
    dtype = node.dtype()
    weights = op.permute_dims(_reshaped(node[1], [directions * rows, depth]))
    x = op.matmul(x, weights)
    bias, reset = _biases(node, what, hidden)
    if bias is not None:
        x = op.add(x, bias)
    operands = [x, node[2]]
    shape = [directions, batch, hidden]
    operands += [_initial(node, name, batch_first, shape, lengths) for name in what.states]
    if what.peepholes:
        operands += [
            op.strided_slice(node[_PEEPHOLES], [1], [at * hidden], [(at + 1) * hidden])
            for at in range(3)
        ]
    if what.vectors == ("rb",):
        operands.append(constant(np.zeros((directions, hidden), dtype)) if reset is None else reset)
    if lengths is not None:
        operands.append(lengths)
    func = recurrence_loops(what, steps, batch, hidden, dtype)
    state = relax.TensorType(shape, dtype)
    types = [relax.TensorType([steps, directions, batch, hidden], dtype)]
    types += [state] * len(what.states)
    callee = node.builder.add_func(func, cell.lower())
    arguments = [node.builder.emit(operand) for operand in operands]
    result = node.builder.emit(relax.call_tir(callee, arguments, types))
    outputs = [relax.TupleGetItem(result, index) for index in range(len(types))]
    if batch_first:
        outputs = [op.permute_dims(node.emit(outputs[0]), [2, 0, 1, 3])] + [
            op.permute_dims(node.emit(one), [1, 0, 2]) for one in outputs[1:]
        ]
    return [node.emit(one) for one in outputs]


def _describe(node: Node, cell: Cell) -> tuple[Recurrence, Expr | None]:
    """What the node's attributes say, and the lengths of its sequences if they differ."""
    direction = node.attribute("direction", "forward")
    if direction not in _DIRECTIONS:
        raise node.error(f"direction '{direction}' is none of {', '.join(_DIRECTIONS)}")
    reverse = _DIRECTIONS[direction]
    if not is_float(node.dtype()):
        raise node.error(f"{node.dtype()} is not supported")
    lengths = _lengths(node)
    return Recurrence(
        cell,
        reverse,
        _activations(node, cell, len(reverse)),
        clip=float(node.attribute("clip", 0.0)),
        input_forget=bool(node.attribute("input_forget", 0)),
        linear_before_reset=bool(node.attribute("linear_before_reset", 0)),
        peepholes=cell == "LSTM" and node.get(_PEEPHOLES) is not None,
        lengths=lengths is not None,
    ), lengths


def _activations(node: Node, cell: Cell, directions: int) -> tuple[tuple[Activation, ...], ...]:
    """The functions of each direction; `alpha` and `beta` go to those that have one, in order."""
    count = len(_DEFAULTS[cell])
    names = node.attribute("activations")
    given = [_text(name) for name in names] if names else [*_DEFAULTS[cell]] * directions
    if len(given) != count * directions:
        raise node.error(
            f"it has {len(given)} activations, but {cell} with {directions} "
            f"direction{'s' if directions > 1 else ''} takes {count * directions}"
        )
    known = {name.lower(): name for name in ACTIVATIONS}
    alphas = [float(value) for value in node.attribute("activation_alpha") or []]
    betas = [float(value) for value in node.attribute("activation_beta") or []]
    functions: list[Activation] = []
    for text in given:
        if text.lower() not in known:
            raise node.error(f"activation '{text}' is none of {', '.join(ACTIVATIONS)}")
        name = known[text.lower()]
        alpha, beta = ACTIVATIONS[name]
        if alpha is not None and alphas:
            alpha = alphas.pop(0)
        if beta is not None and betas:
            beta = betas.pop(0)
        for key, value in (("alpha", alpha), ("beta", beta)):
            if value is not None and math.isnan(value):
                raise node.error(f"activation '{name}' has no default for activation_{key}")
        functions.append(Activation(name, alpha or 0.0, beta or 0.0))
    return tuple(tuple(functions[at : at + count]) for at in range(0, count * directions, count))


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _lengths(node: Node) -> Expr | None:
    """The input `sequence_lens`; None where all sequences are as long as the tensor."""
    lengths = node.get(4)
    if lengths is None:
        return None
    steps = node.shape()[1 if node.attribute("layout", 0) else 0]
    if isinstance(lengths, GenericConst):
        values = lengths.value.numpy()
        if values.min() < 0 or values.max() > steps:
            raise node.error(f"sequence_lens {values.tolist()} do not fit {steps} steps")
        if (values == steps).all():
            return None
    return lengths


def _check_shapes(
    node: Node, what: Recurrence, recurrent: tuple[int, int, int], depth: int
) -> None:
    directions, rows, hidden = recurrent
    wanted = (len(what.reverse), what.gates * hidden)
    if (directions, rows) != wanted or node.attribute("hidden_size", hidden) != hidden:
        raise node.error(
            f"R is {list(recurrent)}, but hidden_size {node.attribute('hidden_size', hidden)} and "
            f"{what.cell} with {len(what.reverse)} direction(s) want {[*wanted, hidden]}"
        )
    if node.shape(1) != [directions, rows, depth]:
        raise node.error(f"W is {node.shape(1)}, but X and R want {[directions, rows, depth]}")


def _reshaped(value: Expr, shape: list[int]) -> Expr:
    if isinstance(value, GenericConst):
        return constant(value.value.numpy().reshape(shape))
    return op.reshape(value, shape)


def _biases(node: Node, what: Recurrence, hidden: int) -> tuple[Expr | None, Expr | None]:
    """What is added to the projection `[D * G * H]`, and to a GRU's product in its reset `[D, H]`.

    `B` is `[D, 2 * G * H]`: biases of the inputs, then those of the recurrence.
    """
    bias = node.get(3)
    if bias is None:
        return None, None
    directions, rows = len(what.reverse), what.gates * hidden
    if isinstance(bias, GenericConst):
        values = bias.value.numpy().reshape(directions, 2, rows)
        if what.vectors != ("rb",):
            return constant(values.sum(axis=1, dtype=values.dtype).reshape(-1)), None
        total = values[:, 0].copy()
        total[:, : 2 * hidden] += values[:, 1, : 2 * hidden]
        return constant(total.reshape(-1)), constant(values[:, 1, 2 * hidden :].copy())
    inputs = node.emit(op.strided_slice(bias, [1], [0], [rows]))
    recurrent = node.emit(op.strided_slice(bias, [1], [rows], [2 * rows]))
    if what.vectors != ("rb",):
        return op.reshape(op.add(inputs, recurrent), [directions * rows]), None
    reset = op.strided_slice(recurrent, [1], [2 * hidden], [rows])
    gates = op.strided_slice(recurrent, [1], [0], [2 * hidden])
    zeros = constant(np.zeros((directions, hidden), node.dtype()))
    outside = op.concat([gates, zeros], 1)
    return op.reshape(op.add(inputs, outside), [directions * rows]), reset


def _initial(
    node: Node,
    name: str,
    batch_first: bool,  # noqa: FBT001
    shape: list[int],
    lengths: Expr | None,
) -> Expr:
    """An initial state `[D, B, H]`; zeros where it is left out.

    The last state of a sequence of no steps is zero in ONNX Runtime, whatever its initial state;
    the operators' pages do not say. Its initial state becomes zero, which then is its last one.
    """
    value = node.get(_INITIAL_H if name == "h" else _INITIAL_C)
    if value is None:
        return constant(np.zeros(shape, node.dtype()))
    if batch_first:
        value = node.emit(op.permute_dims(value, [1, 0, 2]))
    found = [int(size) for size in value.ty.shape]
    if found != shape:
        raise node.error(f"the initial state '{name}' is {found}, not {shape}")
    if lengths is None or (isinstance(lengths, GenericConst) and lengths.value.numpy().all()):
        return value
    has_steps = node.emit(op.greater(lengths, scalar(0, "int32")))
    return op.where(op.reshape(has_steps, [1, shape[1], 1]), value, scalar(0, node.dtype()))


CONVERTERS: dict[str, Converter] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
