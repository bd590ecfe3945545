"""Versions of installed distributions, and whether they are those that a requirement wants.

Only what our own pyproject uses of PEP 440 and PEP 508: `name>=1.2,<2` and release numbers with an
optional `.postN`. `packaging` is not among our dependencies.
"""

import re
from importlib.metadata import PackageNotFoundError, requires, version

_REQUIREMENT = re.compile(r"^\s*(?P<name>[\w.-]+)\s*(?P<wanted>[^;]*)")
_CLAUSE = re.compile(r"^(?P<operator>>=|<=|==|!=|<|>)\s*(?P<version>[\w.]+)$")


def installed_version(name: str) -> str | None:
    """The version of the distribution `name`, or None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(name: str) -> list[tuple[str, str]]:
    """The distributions that `name` needs whatever its extras, each with the wanted versions."""
    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return []
    matches = [_REQUIREMENT.match(text) for text in texts if "extra" not in text.partition(";")[2]]
    # Hatchling sorts the clauses by their text: `<2,>=1`.
    return [(m["name"], ",".join(m["wanted"].strip().split(",")[::-1])) for m in matches if m]


def satisfies(found: str, wanted: str) -> bool:
    """Whether version `found` meets all clauses of `wanted`, such as `>=0.1.14,<0.1.15`."""
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = _CLAUSE.match(clause)
        if match is None:
            raise ValueError(f"'{clause}' is no version clause")
        have, bound = _key(found), _key(match["version"])
        holds = {
            ">=": have >= bound,
            "<=": have <= bound,
            "==": have == bound,
            "!=": have != bound,
            "<": have < bound,
            ">": have > bound,
        }
        if not holds[match["operator"]]:
            return False
    return True


def _key(text: str) -> tuple[int, ...]:
    """`0.27.0.post1` as `(0, 27, 0, 0, 0, 1)`: five release numbers, then the post-release."""
    release, _, post = text.partition(".post")
    numbers = [int(n) for n in re.match(r"[0-9]+(\.[0-9]+)*", release)[0].split(".")][:5]  # pyright: ignore[reportOptionalSubscript]
    return (*numbers, *[0] * (5 - len(numbers)), int(post or 0))
