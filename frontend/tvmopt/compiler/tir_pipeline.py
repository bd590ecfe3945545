"""From scheduled kernels to LLVM, with register tiles kept where registers can hold them."""

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from tvmopt.compiler.bfloat16 import legalize_computations, lower_bfloat16, store_bfloat16
from tvmopt.compiler.integers import lower_integers
from tvmopt.compiler.marked_steps import split_marked_steps
from tvmopt.compiler.placeholders import is_constant

TIR_PIPELINE = "tvmopt"

PARTITION_HINT = "pragma_loop_partition_hint"

_STACK_BYTES = 8 << 10


def _keep_tiles_on_stack(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Small buffers of constant size stay local variables of their kernel.

    TVM takes 1 KiB and more from the heap. LLVM holds in registers only what is a local variable,
    and 8 x 3 accumulators of 16 lanes are 1.5 KiB: from the heap, they are loaded and stored
    around each multiplication, at half the speed.
    """

    def keep(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
        size_bytes = _size_bytes(alloc.buffer)
        if size_bytes is None or size_bytes > _STACK_BYTES:
            return alloc
        marks = {**dict(alloc.annotations.items()), "disable_lower_builtin": tirx.const(1, "int32")}
        return tirx.AllocBuffer(alloc.buffer, marks)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, keep)))


def _hints_into_loops(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Makes partition hints annotations of their loops.

    TVM narrows loop variables to 32 bits, but not in the hint that names one, which is then lost:
    a tile that juts out would keep its predicate in the innermost loop.
    """

    def move(attr: tirx.AttrStmt) -> tirx.Stmt:
        loop = attr.body
        if attr.attr_key != PARTITION_HINT or not isinstance(loop, tirx.For):
            return attr
        return _with_annotations(
            loop, {**dict(loop.annotations.items()), PARTITION_HINT: attr.value}
        )

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AttrStmt, move)))


def _hints_around_loops(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Undoes `_hints_into_loops` for `LoopPartition`."""

    def move(loop: tirx.For) -> tirx.Stmt:
        annotations = dict(loop.annotations.items())
        hint = annotations.pop(PARTITION_HINT, None)
        if hint is None:
            return loop
        plain = _with_annotations(loop, annotations)
        return tirx.AttrStmt(plain.loop_var, PARTITION_HINT, hint, plain)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, move)))


def _keep_nan(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
    """Puts the constant of a maximum or minimum first: a NaN of the other operand stays a NaN.

    TVM's `max(a, b)` is `a > b ? a : b`, and so is `vmaxps`: if they do not compare, it is `b`. The
    simplifier puts constants last, where they would replace each NaN: ReLU, Clip, HardSigmoid. Of
    two values that are not constant, a NaN of the first is still lost, and one in a reduction.
    """

    def turned(value: Any) -> Any:
        is_float = str(value.ty.dtype).startswith(("float", "bfloat"))
        if not is_float or not is_constant(value.b) or is_constant(value.a):
            return value
        return type(value)(value.b, value.a)

    return func.with_body(
        tvm_ffi.structural_map(func.body, [(tirx.Max, turned), (tirx.Min, turned)])
    )


def _prim_func_pass(rewrite: Any) -> Any:
    return tirx.transform.prim_func_pass(rewrite, opt_level=0)


def _with_annotations(loop: Any, annotations: dict[str, Any]) -> tirx.For:
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        loop.body,
        loop.thread_binding,
        annotations,
        loop.step,
    )


def _size_bytes(buffer: Any) -> int | None:
    if buffer.scope() not in ("global", "local") or not all(
        isinstance(d, tirx.IntImm) for d in buffer.shape
    ):
        return None
    element = tvm.DataType(buffer.dtype)
    return math.prod(int(d) for d in buffer.shape) * element.bits * element.lanes // 8


def _lower(mod: tvm.IRModule, _ctx: Any) -> tvm.IRModule:
    """What TVM's own pipeline does for a CPU; partition hints reach the pass that they are for."""
    return tvm.transform.Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.StmtSimplify(),
            s_tir.transform.AnnotateIrregularLoop(),
            s_tir.transform.LowerOpaqueBlock(),
            _prim_func_pass(_hints_into_loops),
            tirx.transform.FlattenBuffer(),
            _prim_func_pass(store_bfloat16),
            tvm.transform.module_pass(legalize_computations, opt_level=0),
            tirx.transform.NarrowDataType(32),
            _prim_func_pass(_hints_around_loops),
            s_tir.transform.LoopPartition(),
            tirx.transform.VectorizeLoop(),
            tirx.transform.StorageRewrite(),
            s_tir.transform.HoistIfThenElse(),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            _prim_func_pass(split_marked_steps),
            tirx.transform.CommonSubexprElim(),
            _prim_func_pass(_keep_nan),
            tirx.transform.FP8ComputeLegalize(),
            tirx.transform.VerifyMemory(),
            _prim_func_pass(lower_bfloat16),
            _prim_func_pass(lower_integers),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
            # The VM has checked the inputs, and all else is as planned. Checks of each argument
            # of each kernel are 60 % of the object files and a fifth of LLVM's time (YOLOv8n).
            tirx.transform.SkipAssert(),
            tirx.transform.FP8StorageLegalize(),
            tirx.transform.BF16StorageLegalize(),
        ]
    )(mod)


def _pipeline() -> Any:
    _, finalize_host, finalize_device = default_s_tir_pipeline()

    def finalize() -> tvm.transform.Pass:
        return tvm.transform.Sequential([_prim_func_pass(_keep_tiles_on_stack), finalize_host()])

    lower: Any = tvm.transform.module_pass(_lower, opt_level=0)
    return lower, finalize, finalize_device


register_tir_pipeline(TIR_PIPELINE, _pipeline)
