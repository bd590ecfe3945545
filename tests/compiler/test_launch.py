from tvmopt.compiler.launch import region_us
from tvmopt.compiler.threads import default_threads


def test_a_region_takes_some_time_on_one_core_and_on_all():
    assert region_us(1) > 0
    assert region_us(default_threads()) > 0
