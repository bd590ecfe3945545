"""Which installed version is what a requirement wants."""

import pytest

from tvmopt.cli.versions import installed_version, requirements, satisfies


@pytest.mark.parametrize(
    ("found", "wanted", "answer"),
    [
        ("0.1.14.post1", ">=0.1.14,<0.1.15", True),
        ("0.1.14", ">=0.1.14,<0.1.15", True),
        ("0.1.15", ">=0.1.14,<0.1.15", False),
        ("0.1.15.post1", ">=0.1.14,<0.1.15", False),
        ("0.1.13", ">=0.1.14,<0.1.15", False),
        ("0.27.0.post1", ">=0.27.0.post1,<0.28", True),
        ("0.27.0", ">=0.27.0.post1,<0.28", False),
        ("0.28.0", ">=0.27.0.post1,<0.28", False),
        ("0.28", ">=0.28.0", True),
        ("8.10.0", ">=8.2", True),
        ("2.13.0+cpu", ">=2.13,<2.14", True),
        ("2.0", "", True),
        ("2.0", "==2.0.0", True),
        ("2.0", "!=2.0", False),
    ],
)
def test_a_version_meets_a_requirement(found: str, wanted: str, answer: bool):
    assert satisfies(found, wanted) is answer


def test_the_requirements_of_tvmopt_are_its_own_without_the_extras():
    wanted = dict(requirements("tvmopt"))
    assert wanted["apache-tvm-ffi"] == ">=0.1.14,<0.1.15"
    assert "onnxruntime" not in wanted


def test_what_is_not_installed_has_no_version():
    assert installed_version("no-such-distribution") is None
    assert requirements("no-such-distribution") == []
