"""Replaces quantized operators by float ones between `DequantizeLinear` and `QuantizeLinear`.

Those of ai.onnx, and those of the domain com.microsoft that ONNX Runtime's quantizer writes. The
ones that compute in integers and give floats become `MatMulInteger` and what scales its result.
"""

from collections.abc import Callable, Mapping

from onnx import NodeProto, helper, parser

from tvmopt.compiler.importer.constants import take_constants
from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS, Draft, copy_node, label
from tvmopt.compiler.importer.functions import Body, expand
from tvmopt.errors import ModelError

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_BINARY = """
(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point) => (y)
{
  a_real = DequantizeLinear(a, a_scale, a_zero_point)
  b_real = DequantizeLinear(b, b_scale, b_zero_point)
  y_real = OPERATOR(a_real, b_real)
  y = QuantizeLinear(y_real, y_scale, y_zero_point)
}
"""

_UNARY = """
ATTRIBUTES (x, x_scale, x_zero_point, y_scale, y_zero_point) => (y)
{
  x_real = DequantizeLinear(x, x_scale, x_zero_point)
  y_real = OPERATOR(x_real)
  y = QuantizeLinear(y_real, y_scale, y_zero_point)
}
"""

_CONV = """
<auto_pad, dilations, group, kernel_shape, pads, strides>
(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias) => (y)
{
  x_real = DequantizeLinear(x, x_scale, x_zero_point)
  w_real = DequantizeLinear <axis = 0> (w, w_scale, w_zero_point)
  BIAS
  y_real = Conv <auto_pad: string = @auto_pad, dilations: ints = @dilations, group: int = @group,
    kernel_shape: ints = @kernel_shape, pads: ints = @pads, strides: ints = @strides>
    (x_real, w_real, bias_real)
  y = QuantizeLinear(y_real, y_scale, y_zero_point)
}
"""

_CONV_BIAS = """
  bias_scale = Mul(x_scale, w_scale)
  bias_real = DequantizeLinear <axis = 0> (bias, bias_scale)
"""

_MATMUL = """
(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point) => (y)
{
  a_step = Cast <to = 1> (a_scale)
  b_step = Cast <to = 1> (b_scale)
  y_step = Cast <to = 1> (y_scale)
  a_real = DequantizeLinear <axis = -2> (a, a_step, a_zero_point)
  b_real = DequantizeLinear <axis = -1> (b, b_step, b_zero_point)
  y_real = MatMul(a_real, b_real)
  y = QuantizeLinear(y_real, y_step, y_zero_point)
}
"""

_GEMM = """
<alpha: float = 1.0, transA: int = 0, transB: int = 0>
(a, a_scale, a_zero_point, b, b_scale, b_zero_point, c, y_scale, y_zero_point) => (y)
{
  a_real = DequantizeLinear(a, a_scale, a_zero_point)
  b_real = DequantizeLinear <axis = B_AXIS> (b, b_scale, b_zero_point)
  BIAS
  y_real = Gemm <alpha: float = @alpha, transA: int = @transA, transB: int = @transB>
    (a_real, b_real, c_real)
  RESULT
}
"""

_GEMM_BIAS = """
  alpha = Constant <value_float: float = @alpha> ()
  product_scale = Mul(a_scale, b_scale)
  c_scale = Mul(product_scale, alpha)
  c_real = DequantizeLinear <axis = -1> (c, c_scale)
"""

_GLOBAL_AVERAGE = "<channels_last>"
_AVERAGE = "<auto_pad, ceil_mode, channels_last, count_include_pad, kernel_shape, pads, strides>"
_AVERAGE_POOL = """AveragePool <auto_pad: string = @auto_pad, ceil_mode: int = @ceil_mode,
  count_include_pad: int = @count_include_pad, kernel_shape: ints = @kernel_shape,
  pads: ints = @pads, strides: ints = @strides>"""

_SOFTMAX_OF_ROWS = """
<axis: int = -1> (x, x_scale, x_zero_point, y_scale, y_zero_point) => (y)
{
  x_real = DequantizeLinear(x, x_scale, x_zero_point)
  rows = Flatten <axis: int = @axis> (x_real)
  shares = Softmax <axis = -1> (rows)
  shape = Shape(x)
  y_real = Reshape(shares, shape)
  y = QuantizeLinear(y_real, y_scale, y_zero_point)
}
"""

_WHERE = """
(condition, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point) => (y)
{
  a_real = DequantizeLinear(a, a_scale, a_zero_point)
  b_real = DequantizeLinear(b, b_scale, b_zero_point)
  y_real = Where(condition, a_real, b_real)
  y = QuantizeLinear(y_real, y_scale, y_zero_point)
}
"""

_INTEGER_TO_FLOAT = """
(a, b, a_scale, b_scale, a_zero_point, b_zero_point, bias) => (y)
{
  product = MatMulInteger(a, b, a_zero_point, b_zero_point)
  steps = Cast <to = 1> (product)
  scale = Mul(a_scale, b_scale)
  BIASED
}
"""

_DYNAMIC_MATMUL = """
(x, b, b_scale, b_zero_point, bias) => (y)
{
  a, a_scale, a_zero_point = DynamicQuantizeLinear(x)
  product = MatMulInteger(a, b, a_zero_point, b_zero_point)
  steps = Cast <to = 1> (product)
  scale = Mul(a_scale, b_scale)
  BIASED
}
"""


def _bias(node: NodeProto, index: int) -> str:
    """The end of a product in steps of `scale`."""
    if _has(node, index):
        return "y_real = Mul(steps, scale)\n y = Add(y_real, bias)"
    return "y = Mul(steps, scale)"


def _conv(node: NodeProto) -> str:
    if _has(node, 8):
        return _CONV.replace("BIAS", _CONV_BIAS)
    return _CONV.replace("BIAS", "").replace(", bias_real)", ")")


def _gemm(node: NodeProto) -> str:
    text = _GEMM.replace("B_AXIS", "0" if _integer(node, "transB", 0) else "1")
    text = text.replace("BIAS", _GEMM_BIAS if _has(node, 6) else "")
    if not _has(node, 6):
        text = text.replace(", c_real)", ")")
    quantized = "y = QuantizeLinear(y_real, y_scale, y_zero_point)"
    return text.replace("RESULT", quantized if _has(node, 7) else "y = Identity(y_real)")


def _softmax(node: NodeProto) -> str:
    """Before version 13, which the attribute `opset` tells, all axes from `axis` on are one."""
    if _integer(node, "opset", 13) < 13:
        return _SOFTMAX_OF_ROWS
    return _unary("Softmax <axis: int = @axis>", "<axis: int = -1>")(node)


def _binary(operator: str) -> Callable[[NodeProto], str]:
    return lambda _node: _BINARY.replace("OPERATOR", operator)


def _unary(operator: str, attributes: str = "") -> Callable[[NodeProto], str]:
    text = _UNARY.replace("OPERATOR", operator).replace("ATTRIBUTES", attributes)

    def define(node: NodeProto) -> str:
        if _integer(node, "channels_last", 0):
            raise ModelError(f"{label(node)}: channels_last is not supported")
        return text

    return define


def _concat(node: NodeProto) -> str:
    parts = range((len(node.input) - 2) // 3)
    given = ", ".join(f"x{i}, x{i}_scale, x{i}_zero_point" for i in parts)
    real = ", ".join(f"x{i}_real" for i in parts)
    lines = [f"x{i}_real = DequantizeLinear(x{i}, x{i}_scale, x{i}_zero_point)" for i in parts]
    return f"""<axis> (y_scale, y_zero_point, {given}) => (y) {{
      {" ".join(lines)}
      y_real = Concat <axis: int = @axis> ({real})
      y = QuantizeLinear(y_real, y_scale, y_zero_point)
    }}"""


_STANDARD: Mapping[str, Callable[[NodeProto], str]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": lambda _node: _MATMUL,
}

_MICROSOFT: Mapping[str, Callable[[NodeProto], str]] = {
    "DynamicQuantizeMatMul": lambda n: _DYNAMIC_MATMUL.replace("BIASED", _bias(n, 4)),
    "MatMulIntegerToFloat": lambda n: _INTEGER_TO_FLOAT.replace("BIASED", _bias(n, 6)),
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary(_AVERAGE_POOL, _AVERAGE),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool", _GLOBAL_AVERAGE),
    "QLinearLeakyRelu": _unary("LeakyRelu <alpha: float = @alpha>", "<alpha: float = 0.01>"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _softmax,
    "QLinearWhere": lambda _node: _WHERE,
}

_SAME = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators of com.microsoft that are those of ai.onnx for all types that compile."""


def is_quantized(node: NodeProto) -> bool:
    """Whether `expand_quantized` replaces this node."""
    if node.domain == MICROSOFT:
        return node.op_type in _MICROSOFT or node.op_type in _SAME
    return node.domain in DEFAULT_DOMAINS and node.op_type in _STANDARD


def expand_quantized(draft: Draft) -> None:
    """Replaces the graph's quantized operators; the new nodes bear the operator's name.

    Raises:
        ModelError: an attribute that is not supported, or an unknown type of a result.
    """
    if not any(is_quantized(node) for node in draft.graph.node):
        return
    nodes: list[NodeProto] = []
    for node in draft.graph.node:
        if not is_quantized(node):
            nodes.append(copy_node(node))
        elif node.op_type in _SAME:
            nodes.append(copy_node(node))
            nodes[-1].domain = ""
        else:
            nodes += expand(draft, node, _body(node))
            draft.remark("passed", node.name, f"{node.op_type} expanded to float operators")
    draft.set_nodes(nodes)
    take_constants(draft)


def _body(node: NodeProto) -> Body:
    table = _MICROSOFT if node.domain == MICROSOFT else _STANDARD
    text = table[node.op_type](node)
    function = parser.parse_function(f'<domain: "", opset_import: ["": 21]> {node.op_type} {text}')
    _check_result_type(node, list(function.input))
    defaults = {item.name: item for item in function.attribute_proto}
    given = {item.name: item for item in node.attribute}
    return Body(
        list(function.node),
        list(function.input),
        list(function.output),
        defaults | given,
        node.name,
        lambda _inner: node.name,
    )


def _check_result_type(node: NodeProto, formal: list[str]) -> None:
    """The zero point of the result tells its type, and `QuantizeLinear` has no other way to."""
    if not {"y_scale", "y_zero_point"} <= set(formal):
        return
    if _has(node, formal.index("y_scale")) and not _has(node, formal.index("y_zero_point")):
        raise ModelError(f"{label(node)}: it must have the zero point of its result")


def _has(node: NodeProto, index: int) -> bool:
    return index < len(node.input) and bool(node.input[index])


def _integer(node: NodeProto, name: str, default: int) -> int:
    for item in node.attribute:
        if item.name == name:
            return int(helper.get_attribute_value(item))
    return default
