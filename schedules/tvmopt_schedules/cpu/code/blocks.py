"""Reading a fused kernel: which block is the anchor, what comes before and after it."""

from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

OP_ANNOTATION = "tvmopt.op"
"""Annotation that an operator definition puts on the block whose loops decide the kernel."""


@dataclass(frozen=True)
class Kernel:
    """The blocks of a fused PrimFunc, by name, in order of execution.

    Attributes:
        before: blocks that make the anchor's operands (padding, transposes, element-wise work).
        anchor: the annotated block, or the only one that reduces.
        after: blocks that consume the anchor's result (bias, residual, activation).
    """

    before: tuple[str, ...]
    anchor: str
    after: tuple[str, ...]


def block_names(sch: s_tir.Schedule) -> list[str]:
    """Names of the leaf blocks under the root, in order of execution; none without a root."""
    try:
        root = sch.get_sblock("root")
    except s_tir.ScheduleError:  # a function of statements alone, such as a sort
        return []
    return [sch.get(child).name_hint for child in sch.get_child_blocks(root)]


def is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether the block has a reduction axis."""
    return any(it.iter_type == tirx.IterVar.CommReduce for it in sch.get(block).iter_vars)


def annotation(sch: s_tir.Schedule, block: SBlockRV) -> str | None:
    """The operator name that the block's definition annotated it with, if any."""
    value = sch.get(block).annotations.get(OP_ANNOTATION)
    return None if value is None else str(value)


def find_anchor(sch: s_tir.Schedule, op: str) -> Kernel | None:
    """The kernel around the one block that is annotated as `op`; None if there is no such block."""
    names = block_names(sch)
    found = [n for n in names if annotation(sch, sch.get_sblock(n)) == op]
    if len(found) != 1:
        return None
    at = names.index(found[0])
    return Kernel(tuple(names[:at]), found[0], tuple(names[at + 1 :]))
