"""A float graph as quantization sees it: who reads what, and chains of epilogues."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.rewriting import constant_value, dtype_of, is_op, shape_of

PRODUCTS = ("relax.nn.conv2d", "relax.matmul")
SAME_VALUES = (
    "relax.reshape",
    "relax.permute_dims",
    "relax.squeeze",
    "relax.expand_dims",
    "relax.flatten",
    "relax.strided_slice",
    "relax.nn.max_pool2d",
)
"""What hands on some of its operand's values: the result has the operand's encoding."""
BETWEEN = (
    *SAME_VALUES,
    "relax.add",
    "relax.multiply",
    "relax.concat",
    "relax.mean",
    "relax.nn.avg_pool2d",
    "relax.nn.adaptive_avg_pool2d",
    "relax.image.resize2d",
)
"""What integers can be handed through, given those of all operands."""
EPILOGUES = (
    "relax.nn.relu",
    "relax.clip",
    "relax.sigmoid",
    "relax.tanh",
    "relax.nn.silu",
    "relax.nn.gelu",
    "relax.nn.gelu_tanh",
    "relax.nn.leakyrelu",
)
"""Functions of one element, computed by the kernel that makes it."""
NORMALIZATIONS = ("relax.nn.layer_norm", "relax.nn.rms_norm")


@dataclass
class Network:
    """The bindings of `main`.

    Attributes:
        values: what each variable is bound to, in order.
        readers: the variables whose values read a variable, each once.
        outputs: what the function returns.
    """

    values: dict[relax.Var, relax.Expr] = field(default_factory=dict[relax.Var, relax.Expr])
    readers: dict[relax.Var, list[relax.Var]] = field(
        default_factory=lambda: defaultdict[relax.Var, list[relax.Var]](list)
    )
    outputs: set[relax.Var] = field(default_factory=set[relax.Var])

    @classmethod
    def of(cls, mod: tvm.IRModule) -> "Network":
        """Reads `main`."""
        network, func = cls(), mod["main"]
        for block in func.body.blocks:
            for binding in block.bindings:
                network.values[binding.var] = binding.value
                for var in dict.fromkeys(relax.analysis.free_vars(binding.value)):
                    network.readers[var].append(binding.var)
        network.outputs.update(relax.analysis.free_vars(func.body.body))
        return network

    def operands(self, var: relax.Var) -> list[relax.Var] | None:
        """The tensors that a value is made of; None where one is no variable of float32.

        The parts of a split are made of what is split.
        """
        value = self.values[var]
        if isinstance(value, relax.TupleGetItem):
            source = self.values.get(value.tuple_value)
            value = source if is_op(source, "relax.split") else None
        if not isinstance(value, relax.Call):
            return None
        first = value.args[0]
        found = list(first.fields) if isinstance(first, relax.Tuple) else [first]
        if is_op(value, "relax.add", "relax.multiply"):
            found = list(value.args)
        tensors = [
            one for one in found if isinstance(one, relax.Var) and dtype_of(one) == "float32"
        ]
        return tensors if len(tensors) == len(found) else None

    def is_part(self, var: relax.Var) -> bool:
        """Whether it is a part of a split."""
        value = self.values[var]
        if not isinstance(value, relax.TupleGetItem):
            return False
        return is_op(self.values.get(value.tuple_value), "relax.split")

    def end_of(self, var: relax.Var) -> relax.Var:
        """The last of the element-wise functions that follow a value, each the only reader."""
        while True:
            readers = self.readers[var]
            if len(readers) != 1 or var in self.outputs or not self._continues(var, readers[0]):
                return var
            var = readers[0]

    def _continues(self, var: relax.Var, reader: relax.Var) -> bool:
        value = self.values[reader]
        if is_op(value, *EPILOGUES):
            return shape_of(reader) == shape_of(var)
        if not is_op(value, "relax.add", "relax.multiply"):
            return False
        return isinstance(value.args[1], GenericConst) and shape_of(reader) == shape_of(var)

    def nodes(self, *names: str) -> list[relax.Var]:
        """The variables bound to these operators."""
        return [var for var, value in self.values.items() if is_op(value, *names)]


def weight_axis(product: relax.Call) -> int:
    """The axis of a product's weight that counts output channels."""
    return 1 if is_op(product, "relax.matmul") else 0


def weight_of(product: relax.Call) -> Any:
    """The elements of a product's weight; None where it is no constant of float32."""
    array = constant_value(product.args[1])
    return array if array is not None and array.dtype == "float32" else None
