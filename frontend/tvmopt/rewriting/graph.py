"""A function while it is rebuilt: producers, uses, and where new bindings go."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.ir import GenericConst
from tvm_ffi import structural_equal

from tvmopt.passes import CompileContext, Pass
from tvmopt.rewriting.expressions import attrs_of, dtype_of, is_op, join_names, shape_of
from tvmopt.rewriting.operands import operands

_MOST_REWRITES = 64
"""More rewrites of one binding than this mean that two of them undo each other."""


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
                self._uses.update(operands(binding.value))
        result = operands(func.body.body)
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
        self._uses.update(operands(value))
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
            self._uses.update(operands(replacement))
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
        self._uses.update(operands(value))
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
        for var in operands(value):
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


def stored_form(expr: relax.Expr | None, graph: Graph) -> relax.Expr | None:
    """The 16-bit tensor that a float32 one is the exact widening of; None if it is none.

    Passes that lower the precision write `astype(astype(x, bfloat16), float32)` in front of what
    computes; a kernel that reads bfloat16 takes `astype(x, bfloat16)` instead.
    """
    widening = graph.producer(expr)
    if not is_op(widening, "relax.astype") or dtype_of(widening) != "float32":
        return None
    narrow = widening.args[0]
    return narrow if dtype_of(narrow) in ("bfloat16", "float16") else None


def untransposed(expr: relax.Expr, graph: Graph) -> tuple[relax.Expr, tuple[int, ...]]:
    """What a chain of transposes starts from, and the axes that make `expr` of it."""
    axes = tuple(range(len(shape_of(expr) or ())))
    producer = graph.producer(expr)
    while is_op(producer, "relax.permute_dims"):
        given = attrs_of(producer).axes
        inner = tuple(int(a) for a in given) if given else tuple(reversed(range(len(axes))))
        axes = tuple(inner[a] for a in axes)
        expr = producer.args[0]
        producer = graph.producer(expr)
    return expr, axes


def rounded_first(expr: relax.Expr, graph: Graph) -> relax.Expr:
    """`astype(permute_dims(x)) = permute_dims(astype(x))`: then a kernel can read `x` transposed.

    Other expressions, and types that are no 16-bit floats, come back as they are.
    """
    rounding = graph.producer(expr)
    if not is_op(rounding, "relax.astype") or dtype_of(rounding) not in ("bfloat16", "float16"):
        return expr
    moved = graph.producer(rounding.args[0])
    if not is_op(moved, "relax.permute_dims"):
        return expr
    inner = graph.emit(relax.op.astype(moved.args[0], dtype_of(rounding)))
    return graph.emit(relax.op.permute_dims(rounded_first(inner, graph), attrs_of(moved).axes))
