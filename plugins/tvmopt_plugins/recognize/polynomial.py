"""Reads element-wise arithmetic as a polynomial, whatever way it is written in."""

from tvm import relax

from tvmopt.rewriting import Graph, is_op, scalar_value

Polynomial = dict[int, float]
"""Factor by power."""

_HIGHEST = 6
_DEEPEST = 12


def polynomial_in(
    expr: relax.Expr, variable: relax.Expr, graph: Graph, depth: int = 0
) -> Polynomial | None:
    """The expression as a polynomial in `variable`; None when it is not one.

    Reads sums, differences, products, negations and whole powers of the variable and scalars.
    """
    if expr.same_as(variable):
        return {1: 1.0}
    scalar = scalar_value(expr)
    if scalar is not None:
        return {0: float(scalar)}
    source = graph.producer(expr)
    if depth == _DEEPEST or not isinstance(source, relax.Call):
        return None
    if is_op(source, "relax.negative"):
        inner = polynomial_in(source.args[0], variable, graph, depth + 1)
        return None if inner is None else _product(inner, {0: -1.0})
    if not is_op(source, "relax.add", "relax.subtract", "relax.multiply", "relax.power"):
        return None
    first = polynomial_in(source.args[0], variable, graph, depth + 1)
    second = polynomial_in(source.args[1], variable, graph, depth + 1)
    if first is None or second is None:
        return None
    if is_op(source, "relax.multiply"):
        return _product(first, second)
    if is_op(source, "relax.power"):
        exponent = scalar_value(source.args[1])
        if exponent not in range(1, _HIGHEST + 1):
            return None
        result: Polynomial | None = {0: 1.0}
        for _ in range(int(exponent)):
            result = _product(result, first) if result is not None else None
        return result
    sign = -1.0 if is_op(source, "relax.subtract") else 1.0
    total = {p: first.get(p, 0.0) + sign * second.get(p, 0.0) for p in first | second}
    return {power: factor for power, factor in total.items() if factor != 0}


def _product(first: Polynomial, second: Polynomial) -> Polynomial | None:
    result: Polynomial = {}
    for power, factor in first.items():
        for other_power, other_factor in second.items():
            both = power + other_power
            if both > _HIGHEST:
                return None
            result[both] = result.get(both, 0.0) + factor * other_factor
    return result
