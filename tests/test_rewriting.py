"""tvmopt.rewriting: functions are rebuilt binding by binding."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvmopt.rewriting import (
    Graph,
    constant,
    constant_value,
    is_op,
    join_names,
    rebuild,
    scalar_value,
    shape_of,
)


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor((2, 3), "float32"), y: R.Tensor((2, 3), "float32")):
        with R.dataflow():
            a = R.negative(x)
            b = R.negative(a)
            c = R.add(b, y)
            d = R.multiply(c, c)
            e = R.concat((d, b))
            R.output(e)
        return e


def names(mod: tvm.IRModule) -> list[str]:
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def drop_double_negation(value: relax.Expr, graph: Graph) -> relax.Expr | None:
    inner = graph.producer(value.args[0]) if is_op(value, "relax.negative") else None
    return inner.args[0] if is_op(inner, "relax.negative") else None


def test_module_is_the_same_object_when_nothing_fires() -> None:
    assert rebuild(Chain, lambda value, graph: None).same_as(Chain)


def test_names_survive_and_dead_bindings_go() -> None:
    assert names(rebuild(Chain, drop_double_negation)) == ["c", "d", "e"]


def test_input_module_is_left_as_it_was() -> None:
    before = tvm.ir.save_json(Chain)
    rebuild(Chain, drop_double_negation)
    assert tvm.ir.save_json(Chain) == before


def test_uses_count_each_operand_and_the_result() -> None:
    seen: dict[str, int] = {}

    def look(value: relax.Expr, graph: Graph) -> None:
        for arg in value.args:
            if isinstance(arg, relax.Var):
                seen[f"{graph.name}<-{arg.name}"] = graph.uses(arg)

    rebuild(Chain, look)
    assert seen["c<-b"] == 2  # and the tuple of the concatenation
    assert seen["d<-c"] == 2  # c * c
    assert seen["b<-a"] == 1


def test_uses_fall_when_a_consumer_dies() -> None:
    seen: dict[str, int] = {}

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        seen.update({a.name: graph.uses(a) for a in value.args if isinstance(a, relax.Var)})
        return drop_double_negation(value, graph)

    rebuild(Chain, rewrite)
    # b is x now: read by c and e. The negation a is dead and counts no more.
    assert seen["x"] == 2


def test_replacement_sees_its_operands_without_what_it_replaces() -> None:
    uses: list[int] = []

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if is_op(value, "relax.sqrt"):
            return relax.op.add(relax.op.exp(value.args[0]), relax.const(1.0))
        if is_op(value, "relax.exp"):
            uses.append(graph.uses(value.args[0]))
        return None

    @I.ir_module
    class Root:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.negative(x)
                b = R.sqrt(a)
                R.output(b)
            return b

    after = rebuild(Root, rewrite)
    assert uses == [1]
    assert names(after) == ["a", "b", "b"]


def test_result_of_the_function_is_known() -> None:
    seen: dict[str, tuple[bool, int]] = {}

    @I.ir_module
    class Two:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.negative(x)
                b = R.exp(a)
                R.output(a, b)
            return (a, b)

    def look(value: relax.Expr, graph: Graph) -> None:
        (arg,) = value.args
        seen[graph.name] = graph.is_output(arg), graph.uses(arg)

    rebuild(Two, look)
    assert seen == {"a": (False, 1), "b": (True, 2)}


def test_output_that_becomes_another_variable_is_named_like_it() -> None:
    @I.ir_module
    class Same:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.exp(x)
                b = R.negative(a)
                out = R.negative(b)
                R.output(out)
            return out

    assert names(rebuild(Same, drop_double_negation)) == ["a"]


def test_parameter_may_become_the_result() -> None:
    @I.ir_module
    class Nothing:
        @R.function
        def main(x: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.negative(x)
                out = R.negative(a)
                R.output(out)
            return out

    after = rebuild(Nothing, drop_double_negation)
    assert relax.analysis.check_well_formed(after)
    vm = relax.VirtualMachine(tvm.compile(after, target=tvm.target.Target("llvm")), tvm.cpu())
    data = np.array([1, -2], "float32")
    np.testing.assert_array_equal(vm["main"](tvm.runtime.tensor(data)).numpy(), data)


def test_absorbed_names_stand_in_front() -> None:
    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if is_op(value, "relax.multiply"):
            graph.absorb(value.args[0])
            return relax.op.power(value.args[0], relax.const(2.0))
        return None

    assert names(rebuild(Chain, rewrite)) == ["a", "b", "c", "c|d", "e"]


def test_branches_see_replaced_variables() -> None:
    @I.ir_module
    class Branching:
        @R.function
        def main(x: R.Tensor((2,), "float32"), flag: R.Tensor((), "bool")):
            a = R.negative(x)
            b = R.negative(a)
            if flag:  # noqa: SIM108 - TVMScript
                c = R.exp(b)
            else:
                c = R.sin(b)
            return c

    after = rebuild(Branching, drop_double_negation)
    assert relax.analysis.check_well_formed(after)
    vm = relax.VirtualMachine(tvm.compile(after, target=tvm.target.Target("llvm")), tvm.cpu())
    data = np.array([1, -2], "float32")
    for flag, function in ((True, np.exp), (False, np.sin)):
        result = vm["main"](tvm.runtime.tensor(data), tvm.runtime.tensor(np.array(flag)))
        np.testing.assert_allclose(result.numpy(), function(data), rtol=1e-6)  # libm's own error


def test_kernels_made_by_a_rewrite_are_part_of_the_module() -> None:
    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.add"):
            return None
        return graph.bb.call_te(tvm.topi.add, *value.args, primfunc_name_hint="own_add")

    after = rebuild(Chain, rewrite)
    assert "own_add" in {gv.name_hint for gv in after.get_global_vars()}
    assert relax.analysis.check_well_formed(after)


def test_rewrites_that_undo_each_other_are_found() -> None:
    def swap(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        return relax.op.add(*reversed(value.args)) if is_op(value, "relax.add") else None

    with pytest.raises(AssertionError, match="c: the rewrites do not come to an end"):
        rebuild(Chain, swap)


def test_replacement_of_another_shape_is_an_error() -> None:
    def shrink(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        return relax.op.sum(value.args[0]) if is_op(value, "relax.add") else None

    with pytest.raises(AssertionError, match="c: the rewrite gives"):
        rebuild(Chain, shrink)


def test_constants_are_read_without_a_copy() -> None:
    constant = relax.const(np.arange(6, dtype="float32").reshape(2, 3))
    first, second = constant_value(constant), constant_value(constant)
    assert first is not None
    assert second is not None
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    assert shape_of(constant) == (2, 3)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.float32(2), 2.0),
        (np.full((1, 1), 3, "int64"), 3),
        (np.full(5, True), True),
        (np.array([1, 2]), None),
        (np.zeros(0), None),
        (np.zeros(5000), None),  # too many to look at
    ],
)
def test_scalars_come_in_any_rank(array, expected) -> None:
    assert scalar_value(relax.const(array)) == expected


def test_joined_names_name_each_node_once() -> None:
    assert join_names("conv|bias", "", "bn", "bias") == "conv|bias|bn"


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "bfloat16"])
def test_a_constant_holds_an_array_of_any_strides(dtype):
    array = np.arange(6).reshape(2, 3).astype(np.dtype(dtype)).T
    made = constant(array)
    assert [int(dim) for dim in made.ty.shape] == [3, 2]
    assert str(made.ty.dtype.dtype) == dtype
    assert (made.value.numpy() == array).all()


def test_a_constant_without_elements_keeps_its_shape():
    assert constant(np.zeros((2, 0), np.float32)).value.shape == (2, 0)
