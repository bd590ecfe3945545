"""Softmax and its logarithm over one axis."""

from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.compute.rows import Rows


def softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`exp(x - max(x)) / sum(exp(x - max(x)))`; the exponential is taken once per element."""
    rows = Rows(x.shape, [axis])
    maximum = rows.reduce(te.max, x, "softmax_max")
    exponential = te.compute(
        x.shape, lambda *i: te.exp(x(*i) - maximum(*rows.of(i))), "softmax_exp"
    )
    total = rows.reduce(te.sum, exponential, "softmax_sum")
    # One division per row; the product costs at most one more rounding.
    scale = rows.map(lambda *r: tirx.const(1.0, x.dtype) / total(*r), "softmax_scale")
    return te.compute(x.shape, lambda *i: exponential(*i) * scale(*rows.of(i)), "softmax")


def log_softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`x - max(x) - log(sum(exp(x - max(x))))`."""
    rows = Rows(x.shape, [axis])
    maximum = rows.reduce(te.max, x, "log_softmax_max")

    def term(*indices: Any) -> Any:
        return te.exp(x(*indices) - maximum(*rows.of(indices)))

    total = rows.reduce(te.sum, term, "log_softmax_sum")
    shift = rows.map(lambda *r: maximum(*r) + te.log(total(*r)), "log_softmax_shift")
    return te.compute(x.shape, lambda *i: x(*i) - shift(*rows.of(i)), "log_softmax")
