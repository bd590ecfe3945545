"""Running sums and products along any axis but the last, against NumPy."""

import re

import numpy as np
import pytest
from schedule_harness import compile_relax
from tvm import relax


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 16), 0), ((1, 3), 0), ((3, 4, 37), 1), ((2, 3, 4, 5), 1), ((7, 2, 1100), 0)],
)
@pytest.mark.parametrize("exclusive", [False, True])
def test_sums_of_rows(shape: tuple[int, ...], axis: int, exclusive: bool, device: str) -> None:
    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        return bb.emit(relax.op.cumsum(v[0], axis, exclusive=exclusive))

    x = np.random.default_rng(0).integers(-9, 9, shape).astype("float32")  # exact sums
    made = compile_relax(device, [(shape, "float32")], emit)
    exact = np.cumsum(x, axis) - (x if exclusive else 0)
    np.testing.assert_array_equal(made.run(x)[0], exact)
    assert made.rules == ["scan"]


def test_products_of_integers_as_floats_in_vectors(device: str) -> None:
    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        return bb.emit(relax.op.cumprod(v[0], 0, dtype="float32"))

    x = np.random.default_rng(0).integers(-2, 3, (6, 48)).astype("int32")
    made = compile_relax(device, [(x.shape, "int32")], emit)
    np.testing.assert_array_equal(made.run(x)[0], np.cumprod(x, 0).astype("float32"))
    assert re.search(r"vmulps.*%[yz]mm", made.assembly)
