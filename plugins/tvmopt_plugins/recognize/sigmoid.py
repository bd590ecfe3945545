"""Sigmoid and SiLU."""

from tvm import relax

from tvmopt.rewriting import Graph, is_op, scalar_value, shape_of


def recognize_sigmoid(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`1 / (1 + exp(-x)) = sigmoid(x)`, `x / (1 + exp(-x)) = silu(x)`; the same to rounding."""
    if not is_op(value, "relax.divide"):
        return None
    numerator, total = value.args[0], graph.producer(value.args[1])
    if not is_op(total, "relax.add") or scalar_value(total.args[1]) != 1:
        return None
    power = graph.producer(total.args[0])
    if not is_op(power, "relax.exp"):
        return None
    negated = graph.producer(power.args[0])
    if not is_op(negated, "relax.negative", "relax.multiply"):
        return None
    if is_op(negated, "relax.multiply") and scalar_value(negated.args[1]) != -1:
        return None
    data = negated.args[0]
    if shape_of(data) != shape_of(value):
        return None
    if scalar_value(numerator) == 1:
        graph.absorb(power.args[0], total.args[0], value.args[1])
        graph.passed("recognized as sigmoid")
        return relax.op.sigmoid(data)
    if numerator.same_as(data):
        graph.absorb(power.args[0], total.args[0], value.args[1])
        graph.passed("recognized as SiLU")
        return relax.op.nn.silu(data)
    return None


def recognize_silu(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x * sigmoid(x) = silu(x)`; exact."""
    if not is_op(value, "relax.multiply"):
        return None
    for data, other in (tuple(value.args), tuple(value.args)[::-1]):
        gate = graph.producer(other)
        if not is_op(gate, "relax.sigmoid") or not gate.args[0].same_as(data):
            continue
        if graph.uses(other) != 1:
            graph.missed("no SiLU: its sigmoid has another consumer")
            return None
        graph.absorb(other)
        graph.passed("recognized as SiLU")
        return relax.op.nn.silu(data)
    return None
