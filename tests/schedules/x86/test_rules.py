"""The list of rules of the x86 backend."""

import pytest

from tvmopt_plugins.target_x86 import X86


@pytest.mark.parametrize("device", ["x86", "x86-avx2", "x86-avx512", "x86-vnni"])
def test_the_last_rule_takes_everything(device: str) -> None:
    *specific, last = X86(device).schedule_rules()
    assert last.fallback
    assert not any(rule.fallback for rule in specific)


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in X86().schedule_rules()]
    assert len(set(names)) == len(names)
