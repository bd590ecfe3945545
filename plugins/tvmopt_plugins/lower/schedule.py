"""Every kernel gets the schedule of the first rule that takes it, and the report its layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm import relax, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.dlight import ScheduleRule

from tvmopt import CompileContext, Layer
from tvmopt_schedules.cpu.code.pairs import has_pairs, multiplies_pairs
from tvmopt_schedules.cpu.code.quads import has_quads
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.prediction import (
    FLOPS,
    Prediction,
    operations,
    prediction_of,
    touched_bytes,
)

if TYPE_CHECKING:
    from tvmopt_plugins.lower import Schedule as SchedulePass

SCHEDULED = "tirx.is_scheduled"


@dataclass(frozen=True)
class _Chosen:
    """What became of one kernel.

    Attributes:
        rule: the rule's name.
        fallback: why no specific one took it.
        flops: floating-point operations of one call.
        touched: bytes that it reads or writes of each operand.
        prediction: what its schedule expects.
        products: the type of the operands that it multiplies.
    """

    rule: str
    fallback: str
    flops: int
    touched: list[int]
    prediction: Prediction | None = None
    products: str = "float32"


def schedule(mod: tvm.IRModule, source: "SchedulePass", ctx: CompileContext) -> tvm.IRModule:
    """Schedules all PrimFuncs of `mod` and fills `ctx.report.layers`.

    Each kernel is scheduled once, however often `main` calls it.
    """
    rules = ctx.request.backend.schedule_rules()
    has_instruction = multiplies_pairs(Machine.of(ctx.request.backend.capabilities))
    chosen: dict[str, _Chosen] = {}
    scheduled: dict[tvm.ir.GlobalVar, tirx.PrimFunc] = {}
    for var, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        flops, touched = operations(func), touched_bytes(func)
        rule, made = _first_that_takes(func, rules, ctx.target)
        if made is None:
            why = "no rule of the backend takes it; it runs unscheduled"
            chosen[var.name_hint] = _Chosen("none", why, flops, touched)
            continue
        flops = int((made.attrs or {}).get(FLOPS, flops))
        fallback = "no specific rule takes it" if getattr(rule, "fallback", False) else ""
        products = _products(func, pairs=has_instruction)
        chosen[var.name_hint] = _Chosen(
            _name(rule), fallback, flops, touched, prediction_of(made), products
        )
        for key, value in (func.attrs or {}).items():
            made = made.with_attr(key, value)
        scheduled[var] = made.with_attr(SCHEDULED, True)  # noqa: FBT003 - TVM's signature
    after = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for var, func in scheduled.items():
        after.update_func(var, func)
    ctx.report.layers[:] = _layers(after, chosen)
    ctx.report.flops_per_cycle = ctx.request.backend.capabilities.flops_per_cycle
    for layer in ctx.report.layers:
        if layer.fallback:
            ctx.missed(source, ", ".join(layer.nodes), f"{layer.op}: {layer.fallback}")
    return after


def _first_that_takes(
    func: tirx.PrimFunc, rules: Sequence[ScheduleRule], target: tvm.target.Target
) -> tuple[ScheduleRule | None, tirx.PrimFunc | None]:
    for rule in rules:
        made = rule.apply(func, target, False)  # noqa: FBT003 - dlight's signature
        if made is not None:
            assert isinstance(made, Schedule), f"{_name(rule)} returned {type(made).__name__}"
            return rule, made.mod["main"]
    return None, None


def _products(func: tirx.PrimFunc, *, pairs: bool) -> str:
    """`Layer.products`; `pairs` tells whether there is an instruction for those of bfloat16."""
    if has_quads(func) or _types(func)[:2] == _DEPTHWISE_INTEGERS:
        return "int8"
    return "bfloat16" if pairs and has_pairs(func) else "float32"


_DEPTHWISE_INTEGERS = ["uint8", "int32"]
"""Image and weights of a depthwise convolution, which multiplies numbers one by one."""


def _types(func: tirx.PrimFunc) -> list[str]:
    return [str(parameter.ty.dtype) for parameter in func.params if hasattr(parameter.ty, "dtype")]


def _name(rule: ScheduleRule | None) -> str:
    return str(getattr(rule, "name", type(rule).__name__))


def _layers(mod: tvm.IRModule, chosen: dict[str, _Chosen]) -> list[Layer]:
    layers: list[Layer] = []
    calls = [tvm.ir.Op.get(f"relax.{name}") for name in ("call_tir", "call_tir_inplace")]
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or call.op not in calls:
                continue
            kernel = call.args[0].name_hint
            one = chosen[kernel]
            outputs = _tensors(call.ty_args[0])
            inputs = call.args[1].fields
            weight_bytes = sum(
                size for arg, size in zip(inputs, one.touched, strict=False) if _is_constant(arg)
            )
            prediction = one.prediction or Prediction(0.0)
            layers.append(
                Layer(
                    kernel=kernel,
                    nodes=tuple(binding.var.name.split("|")),
                    op=_op_name(kernel),
                    schedule=one.rule,
                    fallback=one.fallback,
                    flops=one.flops,
                    bytes_moved=sum(one.touched),
                    outputs=tuple(_describe(ty) for ty in outputs),
                    weight_bytes=weight_bytes,
                    predicted_cycles=prediction.cycles,
                    pieces=prediction.pieces,
                    products=one.products,
                )
            )
    return layers


def _is_constant(arg: relax.Expr) -> bool:
    return isinstance(arg, tvm.ir.expr.GenericConst)


def _tensors(ty: tvm.ir.Type) -> list[relax.TensorType]:
    if isinstance(ty, relax.TupleType):
        return [one for item in ty.fields for one in _tensors(item)]
    return [ty] if isinstance(ty, relax.TensorType) else []


def _describe(ty: relax.TensorType) -> str:
    shape = ty.shape.values if isinstance(ty.shape, relax.ShapeExpr) else ["?"]
    return f"{ty.dtype}[{', '.join(_dim(dim) for dim in shape)}]"


def _op_name(kernel: str) -> str:
    """The operators of a kernel by its name: `conv2d3__add__relu1` gives `conv2d+add+relu`."""
    return "+".join(part.rstrip("0123456789_") for part in kernel.split("__"))


def _dim(dim: object) -> str:
    return str(int(dim)) if isinstance(dim, tirx.IntImm) else str(dim)
