"""From scheduled kernels to LLVM, with register tiles kept where registers can hold them."""

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import register_tir_pipeline

TIR_PIPELINE = "tvmopt"

_STACK_BYTES = 8 << 10


@tirx.transform.prim_func_pass(opt_level=0)
def keep_tiles_on_stack(func: Any, _mod: tvm.IRModule, _ctx: Any) -> Any:
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


def _size_bytes(buffer: Any) -> int | None:
    if buffer.scope() != "global" or not all(isinstance(d, tirx.IntImm) for d in buffer.shape):
        return None
    element = tvm.DataType(buffer.dtype)
    return math.prod(int(d) for d in buffer.shape) * element.bits * element.lanes // 8


def _pipeline() -> Any:
    lower, finalize_host, finalize_device = default_s_tir_pipeline()

    def finalize() -> tvm.transform.Pass:
        return tvm.transform.Sequential([keep_tiles_on_stack, finalize_host()])

    return lower, finalize, finalize_device


register_tir_pipeline(TIR_PIPELINE, _pipeline)
