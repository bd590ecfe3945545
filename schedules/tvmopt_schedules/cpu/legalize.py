"""How Relax operators become PrimFuncs on CPUs, where TVM's own legalization is not good enough."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tvm import relax, te, tirx

from tvmopt_schedules.cpu.compute.arg_extremum import arg_extremum
from tvmopt_schedules.cpu.compute.norm import group_norm, instance_norm, layer_norm, rms_norm
from tvmopt_schedules.cpu.compute.softmax import log_softmax, softmax

LegalizeFunc = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizations() -> Mapping[str, LegalizeFunc]:
    """Legalizations by Relax operator name; operators that are not named take TVM's.

    Transcendentals need none: `fast_math` expands them in the scheduled kernel.
    """
    rows: dict[str, LegalizeFunc] = {
        "relax.argmax": _arg_extremum(largest=True),
        "relax.argmin": _arg_extremum(largest=False),
        "relax.nn.group_norm": _group_norm,
        "relax.nn.instance_norm": _instance_norm,
        "relax.nn.layer_norm": _layer_norm,
        "relax.nn.log_softmax": _log_softmax,
        "relax.nn.rms_norm": _rms_norm,
        "relax.nn.softmax": _softmax,
        "relax.sign": _sign,
    }
    return {
        **{name: _where_float32(legalize) for name, legalize in rows.items()},
        "relax.take": _take,
    }


def _where_float32(legalize: LegalizeFunc) -> LegalizeFunc:
    """Leaves other types and shapes that are not static to TVM's legalization."""

    def choose(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        ty = call.args[0].ty
        if str(ty.dtype) == "float32" and _is_static(ty):
            return legalize(bb, call)
        return call.op.get_attr("FLegalize")(bb, call)

    return choose


def _is_static(ty: relax.TensorType) -> bool:
    return isinstance(ty.shape, relax.ShapeExpr) and all(
        hasattr(dim, "value") and int(dim) > 0 for dim in ty.shape.values
    )


def _row_kernel(bb: relax.BlockBuilder, name: str, define: Any, *tensors: relax.Expr) -> relax.Expr:
    """Calls a kernel that takes an element-wise prologue and epilogue into its rows."""
    attrs = {"tvmopt.fusion": "row"}
    return bb.call_te(define, *tensors, primfunc_name_hint=name, primfunc_attrs=attrs)


def _softmax(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return _row_kernel(bb, "softmax", partial(softmax, axis=int(call.attrs.axis)), call.args[0])


def _log_softmax(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    define = partial(log_softmax, axis=int(call.attrs.axis))
    return _row_kernel(bb, "log_softmax", define, call.args[0])


def _layer_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    axes, epsilon = [int(axis) for axis in call.attrs.axes], float(call.attrs.epsilon)

    def define(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return layer_norm(x, gamma, beta, axes, epsilon)

    return _row_kernel(bb, "layer_norm", define, *call.args)


def _rms_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    axes, epsilon = [int(axis) for axis in call.attrs.axes], float(call.attrs.epsilon)

    def define(x: te.Tensor, gamma: te.Tensor) -> te.Tensor:
        return rms_norm(x, gamma, axes, epsilon)

    return _row_kernel(bb, "rms_norm", define, *call.args)


def _instance_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs = call.attrs
    axes, epsilon = [int(axis) for axis in attrs.axes], float(attrs.epsilon)
    channel = int(attrs.channel_axis) % call.args[0].ty.ndim

    def define(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return instance_norm(x, gamma, beta, channel, axes, epsilon)

    return _row_kernel(bb, "instance_norm", define, *call.args)


def _group_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs = call.attrs
    axes, epsilon = [int(axis) for axis in attrs.axes], float(attrs.epsilon)
    channel, groups = int(attrs.channel_axis) % call.args[0].ty.ndim, int(attrs.num_groups)

    def define(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return group_norm(x, gamma, beta, groups, channel, axes, epsilon)

    return _row_kernel(bb, "group_norm", define, *call.args)


def _take(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """A table of bytes is looked up element by element, in the kernel that makes the index."""
    table, index = call.args
    is_in_range = call.attrs.mode == "fast"  # whoever wrote it answers for that
    is_bytes = str(table.ty.dtype) == "uint8" and table.ty.ndim == 1
    if not (is_in_range and is_bytes and index.ty.ndim):
        return call.op.get_attr("FLegalize")(bb, call)

    def define(numbers: te.Tensor, at: te.Tensor) -> Any:
        return te.compute(at.shape, lambda *place: numbers[at(*place)], name="table")

    attrs = {"tvmopt.fusion": "elementwise"}
    return bb.call_te(define, table, index, primfunc_name_hint="table", primfunc_attrs=attrs)


def _sign(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """-1 and 1; else the element, which is 0 or NaN. TVM's gives 0 for NaN."""

    def define(x: te.Tensor) -> Any:
        def one(*index: Any) -> Any:
            value = x(*index)
            zero, positive = tirx.const(0.0, "float32"), tirx.const(1.0, "float32")
            above = tirx.Select(value > zero, positive, value)
            return tirx.Select(value < zero, -positive, above)

        return te.compute(x.shape, one, name="sign")

    return bb.call_te(define, call.args[0], primfunc_name_hint="sign")


def _arg_extremum(*, largest: bool) -> LegalizeFunc:
    def legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if call.attrs.axis is None:
            return call.op.get_attr("FLegalize")(bb, call)
        axis, keepdims = int(call.attrs.axis), bool(call.attrs.keepdims)
        dtype = str(call.ty.dtype)

        def define(x: te.Tensor) -> te.Tensor:
            return arg_extremum(x, axis, largest=largest, keepdims=keepdims, dtype=dtype)

        return _row_kernel(bb, "argmax" if largest else "argmin", define, call.args[0])

    return legalize
