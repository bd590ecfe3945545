"""The part of the core that imports tvm: ONNX in, a package out."""
