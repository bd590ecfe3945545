"""One sweep over the bindings of a function."""

from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.passes import CompileContext, Pass
from tvmopt.rewriting.graph import Graph, Rewrite
from tvmopt.rewriting.operands import substitute


def rebuild(
    mod: tvm.IRModule,
    *rewrites: Rewrite,
    source: Pass | None = None,
    ctx: CompileContext | None = None,
) -> tvm.IRModule:
    """Applies `rewrites` to every binding of `main`; see the package's docstring.

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
        bb.emit_func_output(substitute(func.body.body, env))
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
        value = substitute(binding.value, env)
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
