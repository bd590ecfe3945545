"""All simplifications, in the order in which they are tried on each binding."""

from typing import TYPE_CHECKING

import tvm

from tvmopt import CompileContext
from tvmopt.rewriting import rebuild
from tvmopt_plugins.canonicalize import (
    arithmetic,
    broadcasts,
    identities,
    movement,
    padding,
    quantized_weights,
)
from tvmopt_plugins.canonicalize.convolution import convolve_in_two_dimensions
from tvmopt_plugins.canonicalize.fold_constants import fold_constants
from tvmopt_plugins.canonicalize.share import share_equal

if TYPE_CHECKING:
    from tvmopt_plugins.canonicalize import Canonicalize


def canonicalize(mod: tvm.IRModule, source: "Canonicalize", ctx: CompileContext) -> tvm.IRModule:
    """Applies everything below once, in a sweep from inputs to outputs."""
    mod = rebuild(mod, convolve_in_two_dimensions(), source=source, ctx=ctx)
    return rebuild(
        mod,
        fold_constants(source.max_growth_bytes),
        identities.drop_dropout,
        identities.take_tuple_apart,
        identities.drop_same,
        broadcasts.keep_constants_small,
        broadcasts.drop_broadcast,
        arithmetic.put_constant_last,
        arithmetic.drop_neutral,
        arithmetic.drop_double_negation,
        arithmetic.subtract_to_add,
        arithmetic.divide_to_multiply,
        arithmetic.merge_factors,
        arithmetic.expand_power,
        arithmetic.maximum_to_relu,
        quantized_weights.transpose_stored_weight,
        movement.as_reshape,
        movement.merge_reshapes,
        movement.merge_transposes,
        movement.slice_before_transpose,
        movement.slice_before_reshape,
        movement.reshape_before_transpose,
        padding.pad_in_convolution,
        padding.pad_in_average_pool,
        padding.pad_in_max_pool,
        share_equal(),
        source=source,
        ctx=ctx,
    )
