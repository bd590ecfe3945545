"""The part of the core that imports tvm: ONNX in, a package out."""

import sys

if "torch" not in sys.modules:
    # tvm_ffi imports torch wherever it is installed, against a symbol conflict on Windows: several
    # seconds that no compilation needs. It takes a missing torch well, so it is shown none.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        import tvm as tvm
    finally:
        del sys.modules["torch"]
