"""Activations; those that ONNX got late are written as what runtimes recognize."""

import math

from tvmopt.compiler.exporter.draft import Site


def relu(site: Site) -> str:
    """`max(x, 0)`."""
    return site.last("Relu", site.tensor(0))


def leaky_relu(site: Site) -> str:
    """`alpha x` where `x` is negative."""
    return site.last("LeakyRelu", site.tensor(0), alpha=float(site.attrs.alpha))


def silu(site: Site) -> str:
    """`x sigmoid(x)`."""
    x = site.tensor(0)
    return site.last("Mul", x, site.step("Sigmoid", x))


def gelu(site: Site) -> str:
    """`x / 2 (1 + erf(x / sqrt(2)))`."""
    x = site.tensor(0)
    if site.opset >= 20:
        return site.last("Gelu", x)
    error = site.step("Erf", site.step("Div", x, site.scalar(math.sqrt(2))))
    whole = site.step("Mul", x, site.step("Add", error, site.scalar(1)))
    return site.last("Mul", whole, site.scalar(0.5))


def gelu_tanh(site: Site) -> str:
    """`x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`."""
    x = site.tensor(0)
    if site.opset >= 20:
        return site.last("Gelu", x, approximate="tanh")
    cubed = site.step("Mul", site.step("Pow", x, site.scalar(3)), site.scalar(0.044715))
    inner = site.step("Mul", site.step("Add", x, cubed), site.scalar(math.sqrt(2 / math.pi)))
    whole = site.step("Mul", x, site.step("Add", site.step("Tanh", inner), site.scalar(1)))
    return site.last("Mul", whole, site.scalar(0.5))


def softmax(site: Site) -> str:
    """The shares of `exp(x)` along an axis."""
    return site.last("Softmax", site.tensor(0), axis=int(site.attrs.axis))


def log_softmax(site: Site) -> str:
    """The logarithms of these."""
    return site.last("LogSoftmax", site.tensor(0), axis=int(site.attrs.axis))


WRITERS = {
    "relax.nn.gelu": gelu,
    "relax.nn.gelu_tanh": gelu_tanh,
    "relax.nn.leakyrelu": leaky_relu,
    "relax.nn.log_softmax": log_softmax,
    "relax.nn.relu": relu,
    "relax.nn.silu": silu,
    "relax.nn.softmax": softmax,
}
