"""Kernels are compiled side by side, and the result does not show it."""

import os
import threading
import time

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from tvmopt.compiler.codegen import compile_kernels, on_all_cores, write_objects

TARGET = tvm.target.Target({"kind": "llvm"})


def kernels(count: int) -> tvm.IRModule:
    """`add0` ... add 0.5, 1.5, ... to one to `count` numbers."""
    mod = tvm.IRModule()
    for number in range(count):
        x = te.placeholder((number + 1,), name="x")
        amount = tirx.const(number + 0.5, "float32")
        y = te.compute(x.shape, lambda i: x[i] + amount, name="y")  # noqa: B023 - called at once
        func = te.create_prim_func([x, y]).with_attr("global_symbol", f"add{number}")
        mod[f"add{number}"] = func
    return mod


@pytest.mark.parametrize("count", [1, 40])
def test_every_kernel_is_in_one_of_the_modules(count):
    modules = compile_kernels(kernels(count), TARGET, {})
    assert len(modules) == min(count, 32)
    for number in range(count):
        holders = [one for one in modules if one.implements_function(f"add{number}")]
        assert len(holders) == 1
        x = tvm.runtime.tensor(np.zeros(number + 1, np.float32))
        y = tvm.runtime.tensor(np.zeros(number + 1, np.float32))
        holders[0][f"add{number}"](x, y)
        np.testing.assert_array_equal(y.numpy(), np.full(number + 1, number + 0.5, np.float32))


def test_a_model_without_kernels_gets_a_module():
    (module,) = compile_kernels(tvm.IRModule(), TARGET, {})
    assert module.kind == "llvm"


def test_the_machine_code_does_not_depend_on_the_cores(tmp_path, monkeypatch):
    def objects(folder, cores):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
        (tmp_path / folder).mkdir()
        modules = compile_kernels(kernels(40), TARGET, {})
        return [path.read_bytes() for path in write_objects(modules, tmp_path / folder)]

    assert objects("one", 1) == objects("four", 4)


def test_an_error_says_in_which_kernels_it_is():
    mod = kernels(1)
    x = tirx.Var("x", "float32")
    body = tirx.Evaluate(tirx.call_intrin("float32", "tirx.tvm_storage_sync", x))
    mod["bad"] = tirx.PrimFunc([x], body).with_attr("global_symbol", "bad")
    with pytest.raises(Exception, match="not implemented") as caught:
        compile_kernels(mod, TARGET, {})
    assert caught.value.__notes__ == ["in the kernel 'bad'"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_begun_and_nothing_goes_on(monkeypatch, error):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise error
        time.sleep(0.05)

    with pytest.raises(error):
        on_all_cores(work, range(100))
    assert len(begun) < 20
    assert not [one for one in threading.enumerate() if one.name.startswith("tvmopt-codegen")]
