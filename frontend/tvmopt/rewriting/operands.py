"""The variables that a value reads, and other ones in their place."""

from collections.abc import Iterator

from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


def operands(value: relax.Expr) -> list[relax.Var]:
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


def substitute(value: relax.Expr, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """The value with other variables in place of those in `env`; itself if it reads none."""
    if not any(var in env for var in _walk(value)):
        return value
    match value:
        case relax.Var():
            return env.get(value, value)
        case relax.Call():
            args = [substitute(arg, env) for arg in value.args]
            return relax.Call(value.op, args, value.attrs, value.ty_args, value.span, value.ty)
        case relax.Tuple():
            return relax.Tuple([substitute(field, env) for field in value.fields])
        case relax.TupleGetItem():
            return relax.TupleGetItem(substitute(value.tuple_value, env), value.index)
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
