"""Running a package takes TVM's runtime and no more."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.compiler.build import build
from tvmopt.compiler.executor import as_numpy, as_tensor
from tvmopt.compiler.linking import export_library
from tvmopt.compiler.runtime import empty


def run_python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_running_a_package_imports_no_compiler(small_package):
    code = (
        "import sys, tvmopt; "
        f"package = tvmopt.load({str(small_package.path)!r}); "
        "package.run(package.sample_inputs(), 1); "
        "print(*(name in sys.modules for name in ('tvm', 'onnx', 'torch')))"
    )
    assert run_python(code) == ["False", "False", "False"]


def test_the_compiler_may_come_after_the_runtime(small_package):
    code = (
        "import tvmopt; "
        f"package = tvmopt.load({str(small_package.path)!r}); "
        "inputs = package.sample_inputs(); before = package.run(inputs, 1); "
        "import tvm; from tvm import relax; "
        "again = tvmopt.load(package.path).run(inputs, 1); "
        "print(all((again[name] == before[name]).all() for name in before))"
    )
    assert run_python(code) == ["True"]


def test_a_function_of_tvms_python_sources_is_found(tmp_path):
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    any_int64 = relax.TensorType(ndim=2, dtype="int64")
    with block.function("main", [x]):
        call = relax.call_pure_packed("relax.run.nonzero", x, ty_args=[any_int64])
        block.emit_func_output(block.emit(call))
    library = tmp_path / "library.so"
    export_library(build(block.get(), tvm.target.Target({"kind": "llvm"})).executable, library)
    code = (
        "import sys; from pathlib import Path; import numpy as np; "
        "from tvmopt.compiler.executor import as_numpy, as_tensor; "
        "from tvmopt.compiler.runtime import empty, virtual_machine; "
        f"machine = virtual_machine(Path({str(library)!r})); "
        "x = empty((4,), 'float32'); as_numpy(x)[:] = [0, 1, 0, 2]; "
        "print(*as_numpy(machine['main'](x)).ravel())"
    )
    assert run_python(code) == ["1", "3"]


def test_what_a_kernel_calls_by_name_is_there_without_the_compiler(tmp_path):
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with block.function("main", [x]):
        best = block.emit(relax.op.topk(x, 2, ret_type="values"))
        block.emit_func_output(best)
    target = tvm.target.Target({"kind": "llvm"})
    with target:
        mod = relax.transform.LegalizeOps()(relax.backend.DispatchSortScan()(block.get()))
    library = tmp_path / "library.so"
    export_library(build(mod, target).executable, library)
    code = (
        "import sys; from pathlib import Path; "
        "from tvmopt.compiler.executor import as_numpy; "
        "from tvmopt.compiler.runtime import empty, virtual_machine; "
        f"machine = virtual_machine(Path({str(library)!r})); "
        "x = empty((4,), 'float32'); as_numpy(x)[:] = [0, 3, 1, 2]; "
        "print(*as_numpy(machine['main'](x)), 'tvm' in sys.modules)"
    )
    assert run_python(code) == ["3.0", "2.0", "False"]


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "bfloat16", "float8_e4m3fn"])
def test_a_tensor_is_the_arrays_own_memory(dtype):
    tensor = empty((2, 3), dtype)
    array = as_numpy(tensor)
    array[:] = np.arange(6).reshape(2, 3)
    again = as_numpy(as_tensor(array))
    assert again.dtype == np.dtype(dtype)
    assert np.shares_memory(again, array)
    assert again.ctypes.data % 64 == 0


def test_an_array_of_another_librarys_type_keeps_its_values():
    tensor = empty((3,), "bfloat16")
    as_numpy(tensor)[:] = np.array([1.5, -2.0, 0.25], ml_dtypes.bfloat16)
    assert as_numpy(tensor).astype(np.float32).tolist() == [1.5, -2.0, 0.25]


def test_tvm_comes_without_torch():
    code = (
        "import sys, tvmopt.compiler; import tvm, tvm.relax; "
        "hidden = 'torch' not in sys.modules; import importlib.util as util; "
        "print(hidden, tvm.__spec__.name, util.find_spec('tvm_ffi') is not None)"
    )
    assert run_python(code) == ["True", "tvm", "True"]
