"""Softmax and its logarithm over one axis."""

from typing import Any

from tvm import te, tirx

from tvmopt_schedules.cpu.compute.rows import Rows, elements


def softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`exp(x - max(x)) / sum(exp(x - max(x)))`; the exponential is taken once per element."""
    rows = Rows(x.shape, [axis])
    maximum = rows.reduce(te.max, x, "softmax_max")

    def exponential(*indices: Any) -> Any:
        return te.exp(x(*indices) - maximum(*rows.of(indices)))

    exponentials = elements(x.shape, exponential, "softmax_exp")
    total = rows.reduce(te.sum, exponentials, "softmax_sum")

    # One division per row; the product costs at most one more rounding.
    def reciprocal(*row: Any) -> Any:
        return tirx.const(1.0, x.dtype) / total(*row)

    scale = rows.map(reciprocal, "softmax_scale")

    def element(*indices: Any) -> Any:
        return exponentials(*indices) * scale(*rows.of(indices))

    return elements(x.shape, element, "softmax")


def log_softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """`x - max(x) - log(sum(exp(x - max(x))))`."""
    rows = Rows(x.shape, [axis])
    maximum = rows.reduce(te.max, x, "log_softmax_max")

    def term(*indices: Any) -> Any:
        return te.exp(x(*indices) - maximum(*rows.of(indices)))

    total = rows.reduce(te.sum, term, "log_softmax_sum")

    def log_total(*row: Any) -> Any:
        return te.log(total(*row))

    # Subtracted one after the other: their sum would round away what large inputs differ by.
    logarithm = rows.map(log_total, "log_softmax_log")

    def element(*indices: Any) -> Any:
        row = rows.of(indices)
        return x(*indices) - maximum(*row) - logarithm(*row)

    return elements(x.shape, element, "log_softmax")
