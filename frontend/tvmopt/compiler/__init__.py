"""The part of the core that knows tvm: ONNX in, a package out, and how a package runs."""

from tvmopt.compiler.without_torch import hide_torch_from_tvm

hide_torch_from_tvm()
