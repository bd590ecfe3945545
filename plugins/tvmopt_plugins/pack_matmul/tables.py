"""Tables whose rows are gathered and that are also a matmul's transposed weight: stored once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tvm
from tvm import relax, te
from tvm.ir import GenericConst

from tvmopt import CompileContext
from tvmopt.rewriting import Graph, attrs_of, constant_value, dtype_of, is_op, rebuild, shape_of
from tvmopt_schedules.cpu.compute.matmul import packed_rows

if TYPE_CHECKING:
    from tvmopt_plugins.pack_matmul import PackMatmul


@dataclass
class _Table:
    """A constant `[N, K]`, and the panels of its transpose with the name of what reads them."""

    rows: np.ndarray[Any, Any]
    panels: GenericConst | None = None
    product: str = ""


class Tables:
    """What `main` gathers rows of, and which matmuls read the same numbers."""

    def __init__(self) -> None:
        self._tables: dict[GenericConst, _Table] = {}

    @classmethod
    def of(cls, mod: tvm.IRModule) -> Self:
        """The tables of float32 and int8 that `main` gathers rows of."""
        tables = cls()
        bindings = [one for block in mod["main"].body.blocks for one in block.bindings]
        for binding in bindings:
            if _gathers_rows(binding.value):
                constant = binding.value.args[0]
                rows = constant_value(constant)
                if rows is not None and rows.ndim == 2 and rows.dtype in (np.float32, np.int8):
                    tables._tables[constant] = _Table(rows)
        return tables

    def packed(self, weight: np.ndarray[Any, Any], panels: GenericConst, product: str) -> None:
        """Tells that the matmul `product` reads `weight` `[K, N]` as `panels`."""
        for table in self._tables.values():
            if table.panels is None and _is_transposed(table.rows, weight):
                table.panels, table.product = panels, product

    def read_from_panels(
        self, mod: tvm.IRModule, source: "PackMatmul", ctx: CompileContext
    ) -> tvm.IRModule:
        """Gathers rows from panels where a table has some, so that the table itself can go."""

        def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
            table = self._tables.get(value.args[0]) if _gathers_rows(value) else None
            if table is None or table.panels is None or shape_of(value) is None:
                return None
            if dtype_of(table.panels) != dtype_of(value):
                graph.missed(f"stored beside the weight of {table.product}, which has 16 bits")
                return None
            columns = len(table.rows)

            def define(panels: te.Tensor, indices: te.Tensor) -> te.Tensor:
                return packed_rows(panels, indices, columns)

            graph.passed(f"rows are read from the packed weight of {table.product}")
            name = "take_packed"
            return graph.bb.call_te(define, table.panels, value.args[1], primfunc_name_hint=name)

        return rebuild(mod, rewrite, source=source, ctx=ctx)


def _gathers_rows(value: relax.Expr) -> bool:
    if not is_op(value, "relax.take") or not isinstance(value.args[0], GenericConst):
        return False
    # Other modes than "clip" say something else of indices out of range.
    return attrs_of(value).axis == 0 and attrs_of(value).mode == "clip"


def _is_transposed(rows: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> bool:
    if rows.dtype != weight.dtype or rows.shape != weight.shape[::-1]:
        return False
    if not np.array_equal(rows[0], weight[:, 0]):
        return False
    return np.array_equal(rows, weight.T)
