"""Rewriting Relax graphs binding by binding: what most graph and layout passes are made of.

Usage. A rewrite is a function that sees one bound value and returns its replacement, or None:

    from tvmopt.rewriting import Graph, is_op, rebuild

    def drop_double_negation(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        if not is_op(value, "relax.negative"):
            return None
        inner = graph.producer(value.args[0])          # the Call that defines the operand
        if not is_op(inner, "relax.negative"):
            return None
        return inner.args[0]                           # a Var: later uses refer to it

    mod = rebuild(mod, drop_double_negation)           # `mod` itself when nothing fired
    mod = rebuild(mod, one, another, source=self, ctx=ctx)   # in a pass: `graph.missed(why)` works

- Bindings are visited in order; operands of `value` are already rewritten, and `graph.producer`
  looks into the *new* function, so chains fold up in one sweep. A replacement is offered to all
  rewrites again until none fires. Dead bindings are removed at the end.
- The replacement may be nested (`relax.op.add(relax.op.multiply(x, a), b)`): inner calls become
  bindings of their own that carry the same ONNX name. `graph.emit(value)` does so explicitly and
  returns the variable. Inner values are offered to the rewrites, too. `graph.bb.call_te(...)` makes
  a call of a new PrimFunc to emit or return.
- A replacement has the very type of what it replaces (asserted). A pass that changes layouts keeps
  its own map `variable -> blocked variable` and returns the way back; unused ones are dead code.
- `graph.uses(var)` counts consumers exactly as they are now: bindings of the new function that are
  alive, those that are still to come, and the function's result. `graph.is_output(var)` tells
  whether the function returns it. Inside a rewrite the visited binding counts as a consumer, so
  "nobody else reads it" is `graph.uses(var) == 1`.
- `graph.absorb(conv_var)` adds the names of swallowed bindings to the current one: `conv1|bn1`.
- Large constants: `constant_value` makes no copy and `constant` makes one, of an array with any
  strides (`relax.const` makes two or three); drop what you do not need.

Only `main` is visited, and in it only the top level: branches of `If` are left as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any, TypeGuard

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from tvmopt.passes import CompileContext, Pass

__all__ = [
    "Graph",
    "Rewrite",
    "attrs_of",
    "constant",
    "constant_value",
    "dtype_of",
    "is_op",
    "join_names",
    "rebuild",
    "remake",
    "scalar_value",
    "shape_of",
    "stored_form",
]

_MOST_REWRITES = 64
"""More rewrites of one binding than this mean that two of them undo each other."""


def is_op(value: relax.Expr | None, *names: str) -> TypeGuard[relax.Call]:
    """Whether `value` is a call of one of the Relax operators `names`, such as `relax.add`."""
    if not isinstance(value, relax.Call):
        return False
    name = getattr(value.op, "name", "")
    return isinstance(value.op, tvm.ir.Op) and name in names


def attrs_of(call: relax.Call) -> Any:
    """The attributes of an operator, for which TVM has no static types: `attrs_of(call).axis`."""
    return call.attrs


def remake(call: relax.Call, args: Sequence[relax.Expr], **changed: Any) -> relax.Call:
    """The same `relax.nn` operator on other operands, and with other attributes where named."""
    name: str = getattr(call.op, "name", "")
    make = getattr(relax.op.nn, name.removeprefix("relax.nn."))
    own = {
        key: getattr(call.attrs, key)
        for key in signature(make).parameters
        if key in dir(call.attrs)
    }
    return make(*args, **{**own, **changed})


def constant_value(expr: relax.Expr | None) -> np.ndarray[Any, Any] | None:
    """The elements of a constant tensor, without a copy (read only); None for anything else."""
    tensor: Any = getattr(expr, "value", None)
    if not isinstance(expr, GenericConst) or not isinstance(tensor, tvm.runtime.Tensor):
        return None
    try:
        array: np.ndarray[Any, Any] = np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):  # bool and types that NumPy lacks
        array = tensor.numpy()
    array.flags.writeable = False
    return array


def constant(array: np.ndarray[Any, Any]) -> GenericConst:
    """A constant with the array's elements and dtype.

    They are copied once, whatever the strides: a transposed or broadcast view costs no more.
    """
    name = array.dtype.name
    tensor: Any = tvm.runtime.empty(array.shape, name)
    try:
        np.copyto(np.from_dlpack(tensor), array)
    except (
        BufferError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # types that NumPy lacks
        return relax.const(np.ascontiguousarray(array).reshape(array.shape), name)
    return relax.const(tensor, name)


def scalar_value(expr: relax.Expr | None) -> float | int | bool | None:
    """The one value that all elements of a small constant have; None for anything else.

    Exporters write scalars as `[]`, `[1]` or `[1, 1]`, and some broadcast them ahead of time; a
    constant of more than 4096 elements is not looked at.
    """
    if not isinstance(expr, GenericConst):
        return None
    shape = shape_of(expr)
    if shape is None or int(np.prod(shape, dtype=np.int64)) not in range(1, 4097):
        return None
    array = constant_value(expr)
    if array is None:
        return None
    first = array.reshape(-1)[0]
    return first.item() if bool((array == first).all()) else None


def shape_of(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor expression; None when it is no tensor or not static."""
    shape = getattr(expr.ty, "shape", None)
    values = getattr(shape, "values", None)
    if values is None:
        return None
    dims = [getattr(dim, "value", None) for dim in values]
    return None if None in dims else tuple(int(dim) for dim in dims)  # pyright: ignore[reportArgumentType]


def dtype_of(expr: relax.Expr) -> str:
    """The dtype of a tensor expression as NumPy names it; empty for anything else."""
    return str(getattr(expr.ty, "dtype", ""))


def stored_form(expr: relax.Expr | None, graph: "Graph") -> relax.Expr | None:
    """The 16-bit tensor that a float32 one is the exact widening of; None if it is none.

    Passes that lower the precision write `astype(astype(x, bfloat16), float32)` in front of what
    computes; a kernel that reads bfloat16 takes `astype(x, bfloat16)` instead.
    """
    widening = graph.producer(expr)
    if not is_op(widening, "relax.astype") or dtype_of(widening) != "float32":
        return None
    narrow = widening.args[0]
    return narrow if dtype_of(narrow) in ("bfloat16", "float16") else None


def join_names(*names: str) -> str:
    """One name for a binding that computes several ONNX nodes: `conv1|bn1`, each node once."""
    parts = [part for name in names for part in name.split("|") if part]
    return "|".join(dict.fromkeys(parts))


class Graph:
    """The function while it is rebuilt: what is known of its variables, and where to emit.

    Attributes:
        bb: the block builder; its `call_te` makes kernels.
        name: the ONNX name of the binding that is visited; what is emitted is named so.
    """

    def __init__(
        self,
        func: Any,
        bb: relax.BlockBuilder,
        rewrites: tuple["Rewrite", ...],
        source: Pass | None = None,
        ctx: CompileContext | None = None,
    ) -> None:
        self.bb = bb
        self._rewrites = rewrites
        self._source = source
        self._ctx = ctx
        self._said: set[tuple[str, str]] = set()
        self.name = ""
        self.in_dataflow = False
        self._values: dict[relax.Var, relax.Expr] = {}
        self._variables: dict[relax.Expr, relax.Var] = {}
        self._uses: Counter[relax.Var] = Counter()
        self._outputs: set[relax.Var] = set()
        for block in func.body.blocks:
            for binding in block.bindings:
                self._uses.update(_operands(binding.value))
        result = _operands(func.body.body)
        self._uses.update(result)
        self._outputs.update(result)

    def producer(self, expr: relax.Expr | None) -> relax.Expr | None:
        """The value bound to a variable; None for parameters, constants and the like."""
        return self._values.get(expr) if isinstance(expr, relax.Var) else None

    def variable(self, value: relax.Expr) -> relax.Var | None:
        """The variable that this very value is bound to, in the block that is being built."""
        return self._variables.get(value)

    def uses(self, expr: relax.Expr) -> int:
        """How many operands and results refer to a variable (twice in `x * x`)."""
        return self._uses[expr] if isinstance(expr, relax.Var) else 0

    def is_output(self, expr: relax.Expr) -> bool:
        """Whether the function returns this variable."""
        return isinstance(expr, relax.Var) and expr in self._outputs

    def absorb(self, *variables: relax.Expr) -> None:
        """Puts the names of these variables in front of the current name."""
        names = [var.name for var in variables if isinstance(var, relax.Var)]
        self.name = join_names(*names, self.name)

    def passed(self, message: str) -> None:
        """Records that the pass rewrote the visited binding; once per message."""
        if self._ctx and self._source and self._is_news(message):
            self._ctx.passed(self._source, self.name, message)

    def missed(self, why: str) -> None:
        """Records that the pass left the visited binding alone, and why; once per reason."""
        if self._ctx and self._source and self._is_news(why):
            self._ctx.missed(self._source, self.name, why)

    def _is_news(self, message: str) -> bool:
        known = (self.name, message) in self._said
        self._said.add((self.name, message))
        return not known

    def emit(self, value: relax.Expr, name: str | None = None) -> relax.Expr:
        """Binds `value` to a new variable, by default under the visited binding's ONNX name.

        The value is offered to the rewrites first, so that what comes back may also be an older
        variable or a constant.
        """
        self._uses.update(_operands(value))
        leaf = self._emit(value, name or self.name)
        if isinstance(leaf, relax.Var):
            self._uses[leaf] -= 1  # it may be used for the first time yet: not dead at zero
        return leaf

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        """What the rewrites make of a normalized value, itself if none of them fires.

        The value counts as a consumer of its operands when it comes, and what returns does so.
        """
        first = value
        for _ in range(_MOST_REWRITES):
            if isinstance(value, relax.Var | GenericConst):
                return value  # nothing left to compute
            offers = (one(value, self) for one in self._rewrites)
            replacement = next((offer for offer in offers if offer is not None), None)
            if replacement is None or replacement is value:
                return value
            self._uses.update(_operands(replacement))
            self.release(value)
            value = self._flatten(replacement)
            assert structural_equal(first.ty, value.ty), (
                f"{self.name}: the rewrite gives {value.ty} for {first.ty}"
            )
        raise AssertionError(f"{self.name}: the rewrites do not come to an end")

    def _emit(self, value: relax.Expr, name: str) -> relax.Expr:
        """Binds a value that counts as a consumer; the variable is counted once in its place."""
        outer_name, self.name = self.name, name
        value = self.rewrite(self._flatten(value))
        if not isinstance(value, relax.Var | GenericConst):
            kind = relax.DataflowVar if self.in_dataflow else relax.Var
            var = self.bind(kind(self.name, value.ty), value)
            self.release(value)
            self._uses[var] += 1
            value = var
        self.name = outer_name
        return value

    def _flatten(self, value: relax.Expr) -> relax.Expr:
        """Binds calls inside a value that counts as a consumer, and gives it a type."""
        if isinstance(value, relax.Call):
            args = [self._leaf(arg) for arg in value.args]
            if any(new is not old for new, old in zip(args, value.args, strict=True)):
                value = relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
        elif isinstance(value, relax.TupleGetItem):
            source = self._leaf(value.tuple_value)
            if source is not value.tuple_value:
                value = relax.TupleGetItem(source, value.index)
        elif isinstance(value, relax.Tuple):
            value = self._leaf(value)
        return self.bb.normalize(value)

    def bind(self, var: relax.Var, value: relax.Expr) -> relax.Var:
        """Binds a variable that the caller made to a normalized value."""
        self.bb.emit_normalized(relax.VarBinding(var, value))
        self._values[var] = value
        self._variables[value] = var
        self._uses.update(_operands(value))
        return var

    def begin_block(self, *, is_dataflow: bool) -> None:
        """Enters a block of bindings; what a dataflow block binds is not visible outside."""
        self.in_dataflow = is_dataflow
        self._variables.clear()

    def replace(self, old: relax.Var, new: relax.Var) -> None:
        """Has `new` stand for `old`: the consumers still to come refer to it."""
        if old is not new:
            self._uses[new] += self._uses[old]
        if old in self._outputs:
            self._outputs.add(new)

    def release(self, value: relax.Expr) -> None:
        """Takes back the uses of a value's operands, and of what dies with them."""
        for var in _operands(value):
            self._uses[var] -= 1
            if self._uses[var] == 0 and var in self._values:
                self.release(self._values[var])

    def _leaf(self, arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            fields = [self._leaf(field) for field in arg.fields]
            changed = any(new is not old for new, old in zip(fields, arg.fields, strict=True))
            return self.bb.normalize(relax.Tuple(fields)) if changed else arg
        if isinstance(arg, relax.Call | relax.TupleGetItem):
            return self._emit(arg, self.name)
        return arg


Rewrite = Callable[[relax.Expr, Graph], relax.Expr | None]
"""Sees a bound value, its operands rewritten already; returns its replacement or None."""


def rebuild(
    mod: tvm.IRModule,
    *rewrites: Rewrite,
    source: Pass | None = None,
    ctx: CompileContext | None = None,
) -> tvm.IRModule:
    """Applies `rewrites` to every binding of `main`; see the module's docstring.

    Args:
        mod: the module; it is not changed.
        rewrites: tried in this order on each value; the first that returns something wins.
        source: the pass in whose name `graph.passed` and `graph.missed` speak.
        ctx: where their remarks go.

    Returns `mod` itself when no rewrite fired.
    """
    func: Any = mod["main"]
    bb = relax.BlockBuilder(_without_main(mod))
    graph = Graph(func, bb, rewrites, source, ctx)
    env: dict[relax.Var, relax.Expr] = {}
    attrs = {key: func.attrs[key] for key in func.attrs.keys()} if func.attrs else {}  # noqa: SIM118
    fired = False
    with bb.function("main", list(func.params), attrs, func.is_pure):
        for block in func.body.blocks:
            is_dataflow = isinstance(block, relax.DataflowBlock)
            graph.begin_block(is_dataflow=is_dataflow)
            if is_dataflow:
                with bb.dataflow():
                    fired |= _rebuild_block(block, graph, env)
            else:
                fired |= _rebuild_block(block, graph, env)
        bb.emit_func_output(_substitute(func.body.body, env))
    if not fired:
        return mod
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    after = bb.finalize()
    for one in passes:
        after = one(after)
    return after


def _rebuild_block(
    block: relax.BindingBlock, graph: Graph, env: dict[relax.Var, relax.Expr]
) -> bool:
    fired = False
    bindings: list[Any] = list(block.bindings)
    for binding in bindings:
        old = binding.var
        value = _substitute(binding.value, env)
        if isinstance(binding, relax.MatchCast):
            graph.bb.emit_normalized(relax.MatchCast(old, value, binding.ty))
            continue
        graph.name = old.name
        new = graph.rewrite(value)
        fired |= new is not value
        if isinstance(new, GenericConst) and isinstance(old, relax.DataflowVar):
            env[old] = new  # consumers see the constant itself
            fired = True
        elif new is value and value is binding.value:
            graph.bind(old, value)
        elif isinstance(new, relax.Var) and _may_alias(old, new):
            graph.replace(old, new)
            env[old] = new
            fired = True
        else:
            # An output that only passes `new` on is called like the node that computes it.
            name = new.name if isinstance(new, relax.Var) else graph.name
            var = type(old)(name, new.ty)
            graph.replace(old, var)
            env[old] = graph.bind(var, new)
        graph.release(new)
    return fired


def _may_alias(old: relax.Var, new: relax.Var) -> bool:
    # A variable of a dataflow block that is visible outside of it needs a binding of its own kind.
    return isinstance(old, relax.DataflowVar) or not isinstance(new, relax.DataflowVar)


def _without_main(mod: Any) -> tvm.IRModule:
    others = {gv: func for gv, func in mod.functions_items() if gv.name_hint != "main"}
    return tvm.IRModule(others, mod.attrs, mod.global_infos)


def _operands(value: relax.Expr) -> list[relax.Var]:
    """The variables that a value reads, each as often as it does."""
    return list(_walk(value))


def _walk(value: relax.Expr) -> Iterator[relax.Var]:
    match value:
        case relax.Var():
            yield value
        case relax.Call():
            for arg in value.args:
                yield from _walk(arg)
        case relax.Tuple():
            for field in value.fields:
                yield from _walk(field)
        case relax.TupleGetItem():
            yield from _walk(value.tuple_value)
        case relax.If():
            yield from relax.analysis.free_vars(value)
        case _:
            pass


def _substitute(value: relax.Expr, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
    if not any(var in env for var in _walk(value)):
        return value
    match value:
        case relax.Var():
            return env.get(value, value)
        case relax.Call():
            args = [_substitute(arg, env) for arg in value.args]
            return relax.Call(value.op, args, value.attrs, value.ty_args, value.span, value.ty)
        case relax.Tuple():
            return relax.Tuple([_substitute(field, env) for field in value.fields])
        case relax.TupleGetItem():
            return relax.TupleGetItem(_substitute(value.tuple_value, env), value.index)
        case _:
            return _Renamer(env).visit_expr(value)


@mutator
class _Renamer(PyExprMutator):
    """Renames free variables deep inside a value, such as in the branches of an `If`."""

    def __init__(self, env: dict[relax.Var, relax.Expr]) -> None:
        super().__init__()
        self.env = env

    def visit_var_(self, op: relax.Var) -> relax.Expr:
        return self.env.get(op, op)

    def visit_dataflow_var_(self, op: relax.DataflowVar) -> relax.Expr:
        return self.env.get(op, op)
