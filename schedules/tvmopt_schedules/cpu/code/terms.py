"""Small rewrites of TIR: variables in expressions, bodies of blocks."""

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

IF_THEN_ELSE = "prim.if_then_else"
"""The operator of a conditional that evaluates only the branch that it takes."""


def is_conditional(call: ir.Call) -> bool:
    """Whether the call is an `if_then_else`."""
    return isinstance(call.op, ir.Op) and call.op.name == IF_THEN_ELSE


def with_body(block: s_tir.SBlock, body: Any) -> s_tir.SBlock:
    """The block with another body."""
    return s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


def substitute(node: Any, values: dict[tirx.Var, Any]) -> Any:
    """`node` with variables replaced by values."""

    def value_of(var: Any) -> Any:
        return values.get(var, var)

    return tvm_ffi.structural_map(node, [(ir.Var, value_of)])


def variables(expr: Any) -> set[Any]:
    """The variables that occur in the expression."""
    found: set[Any] = set()
    tvm_ffi.structural_walk(expr, [(ir.Var, found.add)])
    return found
