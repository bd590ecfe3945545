"""The work of the pass; imports tvm, so it stands apart from the class."""

import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.rewriting import Graph, is_op, rebuild
from tvmopt_example import DropRepeats


def drop_repeats(mod: tvm.IRModule, source: DropRepeats, ctx: CompileContext) -> tvm.IRModule:
    """`op(op(x))` becomes `op(x)` for the one operator that `source` names."""
    op = f"relax.{source.operator}"

    def drop(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, op) or not is_op(graph.producer(value.args[0]), op):
            return None
        graph.passed("dropped: its operand is a result of the same operator")
        return value.args[0]

    return rebuild(mod, drop, source=source, ctx=ctx)
