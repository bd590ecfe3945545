"""Lets the tests below import their harness, and run for both vector widths of x86."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["x86-avx512", "x86-avx2"])
def device(request: pytest.FixtureRequest) -> str:
    """A device of the x86 backend that this machine can run."""
    from tvmopt_plugins.target_x86 import cpu_info

    if request.param == "x86-avx512" and "avx512vl" not in cpu_info.features():
        pytest.skip("this CPU has no AVX-512")
    return request.param
