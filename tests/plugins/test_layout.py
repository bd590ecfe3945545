"""The layout pass: what moves to blocked channels, what leaves them and why."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt_plugins.layout import Layout
from tvmopt_plugins.layout.convolution import pack_depthwise, pack_weight
from tvmopt_schedules.cpu.compute.channel_blocks import join_channels, split_channels
from tvmopt_schedules.cpu.compute.conv2d import conv2d_nchwc
from tvmopt_schedules.cpu.compute.window import Window

R = relax.op
ANCHOR = {"tvmopt.fusion": "anchor"}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # sums of some hundred products in another order


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _module(inputs: list[tuple[tuple[int, ...], str]], *steps: Callable[..., relax.Expr]) -> Any:
    """`main` with one binding per step, named `node0`, `node1` ...; each sees all before it."""
    bb = relax.BlockBuilder()
    values: list[relax.Expr] = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with bb.function("main", list(values)):
        with bb.dataflow():
            for at, step in enumerate(steps):
                value = bb.normalize(step(*values))
                var = relax.DataflowVar(f"node{at}", value.ty)
                bb.emit_normalized(relax.VarBinding(var, value))
                values.append(var)
            result = bb.emit_output(values[-1])
        bb.emit_func_output(result)
    return bb.finalize()


def _conv(inputs: int, outputs: int, kernel: int = 3, **attrs: Any) -> Callable[..., relax.Expr]:
    """A convolution of the latest value that keeps its size."""
    weight = relax.const(_data(outputs, inputs, kernel, kernel, seed=outputs))
    return lambda *values: R.nn.conv2d(values[-1], weight, padding=kernel // 2, **attrs)


def _kernels(mod: Any) -> list[str]:
    """What `main` calls: kernels by their name without number, operators by theirs."""
    found: list[str] = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call):
                is_kernel = call.op.name == "relax.call_tir"
                name = call.args[0].name_hint if is_kernel else call.op.name
                found.append(name.removeprefix("relax.").rstrip("0123456789"))
    return found


IMAGE = [((1, 16, 6, 5), "float32")]


def test_a_convolution_with_bias_and_relu_stays_blocked(check: Any) -> None:
    weight, bias = _data(20, 16, 3, 3), _data(1, 20, 1, 1, seed=1)
    before = _module(
        IMAGE,
        lambda x: R.nn.conv2d(x, relax.const(weight), padding=1),
        lambda _, y: R.add(y, relax.const(bias)),
        lambda _x, _y, z: R.nn.relu(z),
    )
    window = Window((3, 3), padding=(1, 1, 1, 1))
    padded = np.pad(bias.reshape(20), (0, 4)).reshape(1, 3, 1, 1, 8)
    bb = relax.BlockBuilder()
    x = relax.Var("x0", relax.TensorType([1, 16, 6, 5], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            blocked = bb.emit_te(split_channels, x, 8, primfunc_name_hint="split_channels")
            conv = bb.emit_te(
                partial(conv2d_nchwc, window=window, in_channels=16, groups=1),
                blocked,
                relax.const(pack_weight(weight, 8, 8)),
                primfunc_name_hint="conv2d",
                primfunc_attrs=ANCHOR,
            )
            shifted = bb.emit(R.add(conv, relax.const(padded)))
            active = bb.emit(R.nn.relu(shifted))
            joined = bb.emit_te(join_channels, active, 20, primfunc_name_hint="join_channels")
            result = bb.emit_output(joined)
        bb.emit_func_output(result)
    after = check(Layout(), before, **CLOSE)
    expected = bb.finalize()
    assert _kernels(after) == _kernels(expected)
    for name in ("split_channels", "conv2d", "join_channels"):
        tvm.ir.assert_structural_equal(_function(after, name), _function(expected, name))
    constants = [_constants(mod) for mod in (after, expected)]
    for new, old in zip(*constants, strict=True):
        np.testing.assert_array_equal(new, old)


def _function(mod: Any, name: str) -> Any:
    found = [f for var, f in mod.functions_items() if var.name_hint.rstrip("0123456789") == name]
    assert len(found) == 1
    return found[0].with_attr("global_symbol", name)


def _constants(mod: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            args = list(binding.value.args) if isinstance(binding.value, relax.Call) else []
            args += [f for arg in args if isinstance(arg, relax.Tuple) for f in arg.fields]
            found += [arg.value.numpy() for arg in args if hasattr(arg, "value")]
    return found


def test_names_of_nodes_are_kept(check: Any, names: Any) -> None:
    before = _module(IMAGE, _conv(16, 16), lambda *v: R.nn.relu(v[-1]), _conv(16, 8))
    found = names(check(Layout(), before, **CLOSE))
    assert [name for name in found if name.startswith("node")][:2] == ["node0", "node0"]
    assert {"node0", "node1", "node2"} <= set(found)


def test_layouts_change_only_at_the_borders(check: Any) -> None:
    before = _module(
        IMAGE,
        _conv(16, 24),
        lambda *v: R.nn.silu(v[-1]),
        lambda *v: R.nn.max_pool2d(v[-1], (2, 2), (2, 2)),
        _conv(24, 24, 1),
        lambda *v: R.add(v[-1], v[-2]),
        lambda *v: R.mean(v[-1], axis=[2, 3], keepdims=True),
        _conv(24, 24, 1),
        lambda *v: R.sigmoid(v[-1]),
        lambda *v: R.multiply(v[-1], v[-4]),
        lambda *v: R.clip(v[-1], 0, 6),
        lambda *v: R.concat([v[-1], v[-2]], axis=1),
        lambda *v: R.nn.prelu(v[-1], relax.const(_data(48)), axis=1),
    )
    kernels = _kernels(check(Layout(winograd="off"), before, **CLOSE))
    assert kernels[0] == "split_channels"
    assert kernels[-1] == "join_channels"
    assert not {"split_channels", "join_channels"} & set(kernels[1:-1])
    assert check.missed() == []


def test_a_first_layer_does_not_block_its_three_channels(check: Any) -> None:
    before = _module([((1, 3, 9, 9), "float32")], _conv(3, 16, strides=2))
    assert _kernels(check(Layout(), before, **CLOSE)) == ["conv2d", "join_channels"]


def test_depthwise_weights_lie_along_the_lanes(check: Any) -> None:
    before = _module(IMAGE, _conv(1, 16, groups=16))
    after = check(Layout(), before, **CLOSE)
    assert _kernels(after) == ["split_channels", "depthwise_conv2d", "join_channels"]


def test_narrow_groups_are_computed_together(check: Any) -> None:
    before = _module(IMAGE, _conv(4, 16, groups=4))
    check(Layout(), before, **CLOSE)
    assert check.passed() == [
        "node0: groups of 4 channels do not fill blocks of 8: 2 are computed together, with zeros "
        "between them"
    ]


def test_the_block_is_an_option(check: Any) -> None:
    after = check(Layout(block=4), _module(IMAGE, _conv(16, 16)), **CLOSE)
    types = [str(b.var.ty) for block in after["main"].body.blocks for b in block.bindings]
    assert "(1, 4, 6, 5, 4)" in types[0]


@pytest.mark.parametrize(
    "step",
    [
        lambda *v: R.concat([v[-1], v[-1]], axis=2),
        lambda *v: R.split(v[-1], 2, axis=1)[1],
        lambda *v: R.split(v[-1], [5], axis=2)[1],
        lambda *v: R.strided_slice(v[-1], axes=[1], begin=[8], end=[16]),
        lambda *v: R.strided_slice(v[-1], axes=[3], begin=[1], end=[-1]),
        lambda *v: R.nn.pad(v[-1], [0, 0, 0, 0, 1, 2, 0, 1], "constant", 1.5),
        lambda *v: R.nn.pad(v[-1], [0, 0, 0, 0, 1, 2, 2, 1], "reflect"),
        lambda *v: R.image.resize2d(v[-1], (12, 10), method="nearest_neighbor"),
        lambda *v: R.image.resize2d(v[-1], (12, 10), method="linear"),
        lambda *v: R.add(v[-1], v[-2]),
        lambda *v: R.multiply(v[-1], relax.const(2.0)),
        lambda *v: R.subtract(relax.const(_data(16, 1, 1)), v[-1]),
        lambda *v: R.where(R.less(v[-1], relax.const(0.0)), relax.const(0.5), v[-1]),
    ],
)
def test_what_stands_between_convolutions_stays_blocked(
    check: Any, step: Callable[..., relax.Expr]
) -> None:
    before = _module(IMAGE, _conv(16, 16), step, lambda *v: R.nn.relu(v[-1]))
    kernels = _kernels(check(Layout(winograd="off"), before, **CLOSE))
    assert kernels.count("join_channels") == 1
    assert kernels[-1] == "join_channels"
    assert check.missed() == []


def test_one_channel_is_broadcast_from_the_plain_layout(check: Any) -> None:
    inputs = [*IMAGE, ((1, 1, 6, 5), "float32")]
    before = _module(
        inputs,
        lambda x, _: R.nn.conv2d(x, relax.const(_data(16, 16, 1, 1))),
        lambda _x, mask, y: R.multiply(y, mask),
    )
    kernels = _kernels(check(Layout(), before, **CLOSE))
    assert kernels == ["split_channels", "conv2d", "reshape", "multiply", "join_channels"]


def test_operators_without_a_blocked_form_say_so(check: Any) -> None:
    before = _module(IMAGE, _conv(16, 16), lambda *v: R.permute_dims(v[-1], [0, 2, 3, 1]))
    after = check(Layout(winograd="off"), before, **CLOSE)
    assert _kernels(after)[-2:] == ["join_channels", "permute_dims"]
    assert check.missed() == [
        "node1: leaves the blocked layout: permute_dims has no blocked form here"
    ]


def test_parts_that_do_not_fill_blocks_are_joined_plain(check: Any) -> None:
    before = _module(IMAGE, _conv(16, 12), lambda *v: R.concat([v[-1], v[-1]], axis=1))
    check(Layout(winograd="off"), before, **CLOSE)
    assert check.missed()[0] == (
        "node1: leaves the blocked layout: parts of 12, 12 channels do not fill blocks of 8"
    )


def test_a_weight_that_is_an_input_is_left_alone(check: Any) -> None:
    inputs = [*IMAGE, ((8, 16, 3, 3), "float32")]
    before = _module(inputs, lambda x, w: R.nn.conv2d(x, w))
    assert check.leaves(Layout(), before) == [
        "node0: left in the plain layout: its weight is computed at run time"
    ]


def test_other_types_are_left_alone(check: Any) -> None:
    weight = relax.const(_data(8, 16, 1, 1).astype("float16"))
    before = _module([((1, 16, 4, 4), "float16")], lambda x: R.nn.conv2d(x, weight))
    assert check.leaves(Layout(), before) == [
        "node0: left in the plain layout: float16 x float16 is neither float32 nor uint8 x int8"
    ]


def test_few_channels_are_pooled_plain(check: Any) -> None:
    before = _module([((1, 3, 8, 8), "float32")], lambda x: R.nn.max_pool2d(x, (2, 2), (2, 2)))
    assert check.leaves(Layout(), before) == [
        "node0: left in the plain layout: 3 channels fill less than half a block of 8"
    ]


def test_a_graph_without_images_is_left_alone(check: Any) -> None:
    before = _module([((4, 8), "float32")], lambda x: R.nn.relu(x))
    assert check.leaves(Layout(), before) == []


def test_dilated_transposed_convolutions_are_left_alone(check: Any) -> None:
    weight = relax.const(_data(16, 2, 2, 2))
    before = _module(IMAGE, lambda x: R.nn.conv2d_transpose(x, weight, dilation=2))
    assert check.leaves(Layout(), before) == [
        "node0: left in the plain layout: a dilated transposed convolution has no blocked form"
    ]


@pytest.mark.parametrize("op", [R.nn.conv3d, R.nn.conv1d_transpose])
def test_other_convolutions_whose_weight_is_an_input_are_left_alone(check: Any, op: Any) -> None:
    shape = (1, 4, 6) if op is R.nn.conv1d_transpose else (1, 4, 6, 6, 6)
    before = _module([(shape, "float32"), ((4, 4, *shape[2:]), "float32")], lambda x, w: op(x, w))
    (missed,) = check.leaves(Layout(), before)
    assert "its weight" in missed


def test_packed_weights_hold_every_weight_once() -> None:
    weight = _data(5, 6, 2, 3)
    packed = pack_weight(weight, 4, 2)
    assert packed.shape == (2, 3, 2, 3, 2, 4)
    for o, i, y, x in np.ndindex(*weight.shape):
        assert packed[o // 4, i // 2, y, x, i % 2, o % 4] == weight[o, i, y, x]
    assert np.count_nonzero(packed) == weight.size
    single = pack_depthwise(_data(5, 1, 2, 3), 4)
    assert single.shape == (2, 2, 3, 4)
    assert np.count_nonzero(single) == 30


@pytest.mark.parametrize("dtype", ["int64", "float64"])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (1, 1, 6, 5)])
def test_constants_keep_the_type_of_the_image_they_meet(
    check: Any, dtype: str, shape: tuple[int, ...]
) -> None:
    constant = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    before = _module(
        IMAGE,
        _conv(16, 16),
        lambda *v: R.astype(v[-1], dtype),
        lambda *v: R.add(v[-1], relax.const(constant, dtype)),
    )
    after = check(Layout(), before, **CLOSE)
    assert _kernels(after)[-1] == "join_channels"
    assert dtype in {array.dtype.name for array in _constants(after)}


def test_prelu_keeps_the_type_of_its_image(check: Any) -> None:
    slope = np.linspace(0.1, 0.9, 16)
    before = _module(
        IMAGE,
        _conv(16, 16),
        lambda *v: R.astype(v[-1], "float64"),
        lambda *v: R.nn.prelu(v[-1], relax.const(slope, "float64")),
    )
    assert "nn.prelu" not in _kernels(check(Layout(), before, **CLOSE))
