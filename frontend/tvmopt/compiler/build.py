"""Scheduled kernels become machine code, the graph becomes bytecode, weights are taken out."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvmopt.compiler.codegen import compile_kernels
from tvmopt.rewriting import constant_value

_LIFT_BYTES = 256  # smaller constants stay in the executable
_HEAD_ELEMENTS = 64
"""Weights that differ mostly do so here: no need to compare 0.5 GB."""


@dataclass(frozen=True)
class BuiltModel:
    """A compiled model.

    Attributes:
        executable: the VM executable; `main(*inputs, weights)` where `weights` is one tuple, left
            out when there are none.
        weights: the constants of the model in the order of that tuple.
    """

    executable: relax.VMExecutable
    weights: tuple[np.ndarray, ...]


def build(mod: tvm.IRModule, target: tvm.target.Target) -> BuiltModel:
    """Builds a module whose kernels are scheduled."""
    mod, weights = lift_weights(mod)
    with target, tvm.transform.PassContext(opt_level=3, config=_CONFIG):
        mod = tvm.transform.Sequential(_GRAPH_PASSES)(mod)
    return BuiltModel(_executable(mod, target), weights)


def _executable(mod: tvm.IRModule, target: tvm.target.Target) -> relax.VMExecutable:
    """What `relax.build` makes of a lowered module, its kernels compiled on all cores."""
    attrs = mod.attrs or {}
    builder = relax.ExecBuilder()
    mod = tvm.get_global_func("relax.VMCodeGen")(builder, mod)
    first, *others = compile_kernels(mod, target, _CONFIG)
    libraries = [*others, *attrs.get("external_mods", [])]
    constants = dict(attrs.get("const_name_to_constant", {}))
    link = tvm.get_global_func("relax.VMLink")
    return relax.VMExecutable(link(builder, target, first, libraries, constants))


_CONFIG = {
    # Turns the predicate on a tile that juts out into a loop of its own.
    "s_tir.LoopPartition": {"partition_const_loop": True},
}

_GRAPH_PASSES = [
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
    relax.transform.StaticPlanBlockMemory(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    relax.transform.AttachGlobalSymbol(),
]


def lift_weights(mod: tvm.IRModule) -> tuple[tvm.IRModule, tuple[np.ndarray, ...]]:
    """Takes large constants out of `main`; they come in as one tuple, its last parameter."""
    main = mod["main"]
    lifter = _WeightLifter(mod)
    body = lifter.visit_expr(main.body)
    params = [*main.params, *lifter.params]
    func = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
    func = func.with_attr("num_input", len(main.params))
    after = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    after.update_func(mod.get_global_var("main"), func)
    if lifter.params:
        after = relax.transform.BundleModelParams("weights")(after)
    return after, tuple(lifter.weights)


@mutator
class _WeightLifter(PyExprMutator):
    """Replaces constants by new parameters; those with the same bytes by the same one.

    Exporters and passes write a weight that is used twice as two constants, and layers that share
    theirs (ALBERT) are packed one by one.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.params: list[relax.Var] = []
        self.weights: list[np.ndarray] = []
        self._seen: dict[tvm.ir.GenericConst, relax.Var] = {}
        self._alike: dict[Hashable, list[int]] = {}

    def visit_generic_const_(self, op: tvm.ir.GenericConst) -> relax.Expr:
        if not isinstance(op.ty, relax.TensorType):
            return op
        array = constant_value(op)  # a view: VGG-11 has 0.5 GB of weights
        if array is None or array.nbytes < _LIFT_BYTES:
            return op
        if op not in self._seen:
            self._seen[op] = self.params[self._stored(array, op.ty)]
        return self._seen[op]

    def _stored(self, array: np.ndarray, ty: tvm.ir.Type) -> int:
        """The number of the weight with these bytes, which is a new one if there is none yet."""
        head = array.reshape(-1)[:_HEAD_ELEMENTS].tobytes()
        alike = self._alike.setdefault((array.dtype.name, array.shape, head), [])
        raw = _raw(array)
        for number in alike:
            if np.array_equal(_raw(self.weights[number]), raw):
                return number
        alike.append(len(self.weights))
        self.params.append(relax.Var(f"weight{len(self.weights)}", ty))
        self.weights.append(array)
        return alike[-1]


def _raw(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
