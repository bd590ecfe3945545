"""canonicalize: reshapes, transposes and slices."""

import numpy as np
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt.rewriting import rebuild
from tvmopt_plugins.canonicalize import Canonicalize, movement
from tvmopt_plugins.canonicalize.identities import drop_same


def test_keys_of_attention_are_transposed_once(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 5, 6), "float32")) -> R.Tensor((1, 3, 2, 5), "float32"):
            with R.dataflow():
                heads = R.reshape(x, (1, 5, 3, 2))
                front = R.permute_dims(heads, [0, 2, 1, 3])
                flat = R.reshape(front, (3, 5, 2))
                turned = R.permute_dims(flat, [0, 2, 1])
                out = R.reshape(turned, (1, 3, 2, 5))
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 5, 6), "float32")) -> R.Tensor((1, 3, 2, 5), "float32"):
            with R.dataflow():
                heads = R.reshape(x, (1, 5, 3, 2))
                out = R.permute_dims(heads, [0, 2, 3, 1])
                R.output(out)
            return out

    check(Canonicalize(), Before, Expected)


def test_slices_of_a_merged_projection_come_before_reshape_and_transpose(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 5, 12), "float32")):
            with R.dataflow():
                heads = R.reshape(x, (1, 5, 2, 3, 2))
                front = R.permute_dims(heads, [2, 0, 3, 1, 4])
                first = R.strided_slice(front, axes=[0], begin=[0], end=[1])
                second = R.strided_slice(front, axes=[0], begin=[1], end=[2])
                q = R.squeeze(first, [0])
                k = R.squeeze(second, [0])
                R.output(q, k)
            return (q, k)

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 5, 12), "float32")):
            with R.dataflow():
                first = R.strided_slice(x, axes=[2], begin=[0], end=[6], strides=[1])
                second = R.strided_slice(x, axes=[2], begin=[6], end=[12], strides=[1])
                third = R.reshape(first, (1, 5, 3, 2))
                q = R.permute_dims(third, [0, 2, 1, 3])
                fourth = R.reshape(second, (1, 5, 3, 2))
                k = R.permute_dims(fourth, [0, 2, 1, 3])
                R.output(q, k)
            return (q, k)

    check(Canonicalize(), Before, Expected)


def test_transpose_with_another_reader_is_not_done_twice(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3, 2), "float32")):
            with R.dataflow():
                turned = R.permute_dims(x, [2, 1, 0])
                flat = R.reshape(turned, (1, 2, 3, 4))
                other = R.sigmoid(turned)
                R.output(flat, other)
            return (flat, other)

    assert check.leaves(Canonicalize(), Before) == []


def test_reversing_slice_stays(check) -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3), "float32")) -> R.Tensor((4, 3), "float32"):
            with R.dataflow():
                out = R.strided_slice(x, axes=[0], begin=[3], end=[-5], strides=[-1])
                R.output(out)
            return out

    assert check.leaves(Canonicalize(), Before) == []


# Shapes with unit axes, then any chain of movements on them.
_SHAPE = st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=2, max_size=4)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, list[int]]]]:
    shape = draw(_SHAPE)
    steps: list[tuple[str, list[int]]] = []
    current = list(shape)
    for _ in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["permute", "permute", "reshape", "slice"])):
            case "permute":
                order = draw(st.permutations(range(len(current))))
                current = [current[axis] for axis in order]
                steps.append(("permute", list(order)))
            case "reshape":
                sizes = [dim for dim in current if dim > 1]
                if draw(st.booleans()) and len(sizes) > 1:
                    sizes = [sizes[0] * sizes[1], *sizes[2:]]
                elif 4 in sizes and draw(st.booleans()):
                    at = sizes.index(4)
                    sizes[at : at + 1] = [2, 2]
                for _ in range(draw(st.integers(0, 2))):
                    sizes.insert(draw(st.integers(0, len(sizes))), 1)
                current = sizes or [1]
                steps.append(("reshape", list(current)))
            case _:
                axis = draw(st.integers(0, len(current) - 1))
                begin = draw(st.integers(0, current[axis] - 1))
                end = draw(st.integers(begin + 1, current[axis]))
                current[axis] = end - begin
                steps.append(("slice", [axis, begin, end]))
    return shape, steps


@given(chains())
def test_any_chain_of_movements_keeps_its_elements(chain) -> None:
    shape, steps = chain
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "int32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            value = x
            for kind, numbers in steps:
                value = bb.emit(_movement(value, kind, numbers))
            out = bb.emit_output(value)
        bb.emit_func_output(out)
    rewrites = (
        drop_same,
        movement.as_reshape,
        movement.merge_reshapes,
        movement.merge_transposes,
        movement.slice_before_transpose,
        movement.slice_before_reshape,
        movement.reshape_before_transpose,
    )
    after = rebuild(bb.get(), *rewrites)
    data = np.arange(np.prod(shape), dtype="int32").reshape(shape)
    np.testing.assert_array_equal(_evaluate(after, data), _evaluate(bb.get(), data))


def _movement(value: relax.Expr, kind: str, numbers: list[int]) -> relax.Expr:
    match kind:
        case "permute":
            return relax.op.permute_dims(value, numbers)
        case "reshape":
            return relax.op.reshape(value, numbers)
        case _:
            axis, begin, end = numbers
            return relax.op.strided_slice(value, [axis], [begin], [end])


def _evaluate(mod: tvm.IRModule, data: np.ndarray) -> np.ndarray:
    """Evaluates a chain of movements with NumPy."""
    known = {mod["main"].params[0]: data}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Var):
                known[binding.var] = known[call]
                continue
            source = known[call.args[0]]
            match call.op.name:
                case "relax.permute_dims":
                    result = source.transpose([int(axis) for axis in call.attrs.axes])
                case "relax.reshape":
                    result = source.reshape([int(dim) for dim in call.ty.shape])
                case _:
                    axis, begin, end = (int(call.args[i].fields[0]) for i in (1, 2, 3))
                    index = [slice(None)] * source.ndim
                    index[axis] = slice(begin, end)
                    result = source[tuple(index)]
            known[binding.var] = result
    return known[mod["main"].body.body]
