"""Short ways to write loops and stores, for kernels that no schedule primitive leads to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import ForKind

Statement = Any
Expr = Any


def integer(value: int) -> Expr:
    """An index: loop variables are 64 bits wide until the pipeline narrows them."""
    return tirx.const(value, "int64")


def index(value: Expr) -> Expr:
    """A number or an expression as an index."""
    return integer(value) if isinstance(value, int) else value


def load(buffer: Any, indices: Sequence[Expr]) -> Expr:
    """An element of a buffer."""
    return tirx.BufferLoad(buffer, [index(i) for i in indices])


def store(buffer: Any, indices: Sequence[Expr], value: Expr) -> Statement:
    """Puts a value into an element of a buffer."""
    return tirx.BufferStore(buffer, value, [index(i) for i in indices])


def sequence(statements: Sequence[Statement]) -> Statement:
    """One statement for several."""
    flat = [s for one in statements for s in (one.seq if isinstance(one, tirx.SeqStmt) else [one])]
    return tirx.SeqStmt(flat) if len(flat) > 1 else flat[0]


def loop(
    name: str, extent: Expr, body: Callable[[Expr], Statement], kind: Any = ForKind.SERIAL
) -> Statement:
    """`body` for 0, 1, ... `extent - 1`."""
    var = tirx.Var(name, "int64")
    return tirx.For(var, integer(0), index(extent), kind, body(var))


def vector(lanes: int, body: Callable[[Expr], Statement]) -> Statement:
    """One store for all lanes at once.

    One only: TVM moves a buffer to the loop that all its accesses are in, and would cut one that
    only lives inside of this loop down to a single lane.
    """
    return loop("lane", lanes, body, ForKind.VECTORIZED)


def bind(values: Mapping[str, Expr]) -> tuple[list[Statement], list[Expr]]:
    """Statements that name values for what follows them, and the names."""
    variables = [tirx.Var(name, "int64") for name in values]
    pairs = zip(variables, values.values(), strict=True)
    return [tirx.Bind(var, index(value)) for var, value in pairs], variables


def choose(condition: Expr, then: Statement, other: Statement | None = None) -> Statement:
    """`if condition: then else: other`."""
    return tirx.IfThenElse(condition, then, other)
