"""Rewriting Relax graphs binding by binding: what most graph and layout passes are made of.

Usage. A rewrite is a function that sees one bound value and returns its replacement, or None:

    from tvmopt.rewriting import Graph, is_op, rebuild

    def drop_double_negation(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.negative"):
            return None
        inner = graph.producer(value.args[0])          # the Call that defines the operand
        if not is_op(inner, "relax.negative"):
            return None
        return inner.args[0]                           # a Var: later uses refer to it

    mod = rebuild(mod, drop_double_negation)           # `mod` itself when nothing fired
    mod = rebuild(mod, one, another, source=self, ctx=ctx)   # in a pass: `graph.missed(why)` works

- Bindings are visited in order; operands of `value` are already rewritten, and `graph.producer`
  looks into the *new* function, so chains fold up in one sweep. A replacement is offered to all
  rewrites again until none fires. Dead bindings are removed at the end.
- The replacement may be nested (`relax.op.add(relax.op.multiply(x, a), b)`): inner calls become
  bindings of their own that carry the same ONNX name. `graph.emit(value)` does so explicitly and
  returns the variable. Inner values are offered to the rewrites, too. `graph.bb.call_te(...)` makes
  a call of a new PrimFunc to emit or return.
- A replacement has the very type of what it replaces (asserted). A pass that changes layouts keeps
  its own map `variable -> blocked variable` and returns the way back; unused ones are dead code.
- `graph.uses(var)` counts consumers exactly as they are now: bindings of the new function that are
  alive, those that are still to come, and the function's result. `graph.is_output(var)` tells
  whether the function returns it. Inside a rewrite the visited binding counts as a consumer, so
  "nobody else reads it" is `graph.uses(var) == 1`.
- `graph.absorb(conv_var)` adds the names of swallowed bindings to the current one: `conv1|bn1`.
- Large constants: `constant_value` makes no copy and `constant` makes one, of an array with any
  strides (`relax.const` makes two or three); drop what you do not need.

Only `main` is visited, and in it only the top level: branches of `If` are left as they are.
"""

from tvmopt.rewriting.expressions import (
    attrs_of,
    constant,
    constant_value,
    dtype_of,
    is_op,
    join_names,
    remake,
    scalar_value,
    shape_of,
)
from tvmopt.rewriting.graph import Graph, Rewrite, rounded_first, stored_form, untransposed
from tvmopt.rewriting.rebuild import rebuild

__all__ = [
    "Graph",
    "Rewrite",
    "attrs_of",
    "constant",
    "constant_value",
    "dtype_of",
    "is_op",
    "join_names",
    "rebuild",
    "remake",
    "rounded_first",
    "scalar_value",
    "shape_of",
    "stored_form",
    "untransposed",
]
