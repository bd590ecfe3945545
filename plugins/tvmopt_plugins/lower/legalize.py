"""Relax operators become calls of PrimFuncs."""

import math

import tvm
from tvm import relax, topi

from tvmopt import CompileContext
from tvmopt.rewriting import Graph, dtype_of, is_op, rebuild, shape_of
from tvmopt_schedules.cpu.memory.scan_rule import scan_kernel


def legalize(mod: tvm.IRModule, ctx: CompileContext) -> tvm.IRModule:
    """Lowers every operator, by the backend's definitions where it has some, else by TVM's."""
    definitions = {"relax.concat": _concat, **ctx.request.backend.legalizations()}
    mod = rebuild(mod, slice_instead_of_split, scan_by_rows)
    return tvm.transform.Sequential(
        [
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            relax.transform.LegalizeOps(definitions),
            relax.transform.FoldConstant(),
            relax.transform.DeadCodeElimination(),
        ]
    )(mod)


def _concat(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """TVM's legalization; the kernel tells its axis to passes that avoid it."""
    parts, axis = call.args[0], call.attrs.axis
    if not isinstance(parts, relax.Tuple) or axis is None:
        return call.op.get_attr("FLegalize")(bb, call)
    axis = int(axis) % call.ty.ndim
    return bb.call_te(
        topi.concatenate,
        list(parts.fields),
        axis,
        primfunc_name_hint="concatenate",
        primfunc_attrs={"tvmopt.joined_axis": axis},
    )


def slice_instead_of_split(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`split(x)[i]` becomes a slice of its own, which fuses into what reads it."""
    if not isinstance(value, relax.TupleGetItem):
        return None
    split = graph.producer(value.tuple_value)
    if not is_op(split, "relax.split"):
        return None
    axis = int(split.attrs.axis) % split.args[0].ty.ndim
    sizes = [int(part.shape.values[axis]) for part in split.ty.fields]
    begin = sum(sizes[: value.index])
    return relax.op.strided_slice(split.args[0], [axis], [begin], [begin + sizes[value.index]])


def scan_by_rows(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    """`cumsum` and `cumprod` along another axis than the last: a kernel that adds rows up; exact.

    TVM's kernel walks one sum after the other, with a cache line for each step.
    """
    if not is_op(value, "relax.cumsum", "relax.cumprod"):
        return None
    source, attrs = value.args[0], value.attrs
    shape = shape_of(source)
    if shape is None or attrs.axis is None or not math.prod(shape):
        return None
    axis = int(attrs.axis) % len(shape)
    given, dtype = dtype_of(source), dtype_of(value)
    if math.prod(shape[axis + 1 :]) == 1:
        return None
    is_product = is_op(value, "relax.cumprod")
    kernel = scan_kernel(
        shape, axis, given, dtype, multiplies=is_product, exclusive=bool(attrs.exclusive)
    )
    callee = graph.bb.add_func(kernel, "cumprod" if is_product else "cumsum")
    return relax.call_tir(callee, [source], relax.TensorType(shape, dtype))
