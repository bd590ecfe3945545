"""Kernels that memory bounds: maps over elements, reductions of rows, and all that is left."""
