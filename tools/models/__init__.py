"""Architectures as their papers and reference implementations have them, in plain torch.

Each file holds one family. The weights are random; `make_models.py` beside this folder checks the
number of parameters against the published one and writes ONNX files.
"""
