"""GELU, in its exact form and in the one with tanh."""

from math import isclose, pi, sqrt

from tvm import relax

from tvmopt.rewriting import Graph, dtype_of, is_op, scalar_value, shape_of
from tvmopt_plugins.recognize.polynomial import Polynomial, polynomial_in

_ERF: Polynomial = {1: 1 / sqrt(2)}
_TANH: Polynomial = {1: sqrt(2 / pi), 3: sqrt(2 / pi) * 0.044715}

_ROUNDING = {"float32": 1e-6, "float64": 1e-6, "float16": 2e-3}
"""Relative difference of a constant that its dtype and the exporter's decimals explain."""


def recognize_gelu(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`x / 2 * (1 + erf(x / sqrt(2)))`, `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.

    The factors may stand in any order, the polynomial in any form; the same to rounding.
    """
    if not is_op(value, "relax.multiply") or dtype_of(value) not in _ROUNDING:
        return None
    constant, factors = _factors(value, graph)
    if constant != 0.5 or len(factors) != 2:
        return None
    for data, other in (factors, factors[::-1]):
        gate = graph.producer(other)
        if not is_op(gate, "relax.add") or scalar_value(gate.args[1]) != 1:
            continue
        curve = graph.producer(gate.args[0])
        if not is_op(curve, "relax.erf", "relax.tanh") or shape_of(data) != shape_of(value):
            continue
        inside = polynomial_in(curve.args[0], data, graph)
        wanted = _ERF if is_op(curve, "relax.erf") else _TANH
        if inside is None or not _is_close(inside, wanted, _ROUNDING[dtype_of(value)]):
            graph.missed(f"no GELU: inside erf or tanh stands {_written(inside)}")
            continue
        graph.absorb(gate.args[0], other)
        graph.passed("recognized as GELU")
        if wanted is _ERF:
            return relax.op.nn.gelu(data)
        return relax.op.nn.gelu_tanh(data)
    return None


def _factors(value: relax.Expr, graph: Graph) -> tuple[float, list[relax.Expr]]:
    """A product as its constant and its other factors; inner products only if unshared."""
    constant, factors, pending = 1.0, list[relax.Expr](), [value]
    while pending:
        product = pending.pop()
        if not is_op(product, "relax.multiply"):
            return constant, []
        for arg in product.args:
            scalar = scalar_value(arg)
            inner = graph.producer(arg)
            if scalar is not None:
                constant *= float(scalar)
            elif is_op(inner, "relax.multiply") and graph.uses(arg) == 1:
                pending.append(inner)
            else:
                factors.append(arg)
    return constant, factors


def _is_close(found: Polynomial, wanted: Polynomial, tolerance: float) -> bool:
    return found.keys() == wanted.keys() and all(
        isclose(found[power], wanted[power], rel_tol=tolerance) for power in wanted
    )


def _written(found: Polynomial | None) -> str:
    if found is None:
        return "something else than a polynomial in x"
    return " + ".join(f"{factor:.7g} x^{power}" for power, factor in sorted(found.items()))
