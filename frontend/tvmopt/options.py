"""Options as dataclass fields: what passes, calibrators and data sets have in common."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from tvmopt.errors import UsageError, unknown_name


def option(default: int, *, minimum: int) -> int:
    """A field that is a number with a lower bound."""
    return field(default=default, metadata={"minimum": minimum})


def check_bounds(item: Any, owner: str) -> None:
    """Checks the bounds that `option` gave.

    Args:
        item: an instance of a dataclass.
        owner: what it is, such as `pass 'fuse'`.

    Raises:
        UsageError: an option below its minimum.
    """
    for one in fields(item):
        minimum, value = one.metadata.get("minimum"), getattr(item, one.name, None)
        if minimum is not None and value < minimum:
            name = one.name.replace("_", "-")
            raise UsageError(f"option '{name}' of {owner} is at least {minimum}, got {value}")


def parse_options(kind: type, owner: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Values for the fields of a dataclass, from options as they are written on the command line.

    Raises:
        UsageError: an option that it does not have, or a value of the wrong type.
    """
    types = {one.name: one.type for one in fields(kind) if one.init}
    values: dict[str, Any] = {}
    for key, text in options.items():
        name = key.replace("-", "_")
        if name not in types:
            known = [known.replace("_", "-") for known in types]
            raise unknown_name(f"option of {owner}", key, known)
        values[name] = _parse(owner, key, types[name], text)
    return values


def _parse(owner: str, key: str, kind: Any, text: str) -> Any:
    kind_name = kind if isinstance(kind, str) else kind.__name__
    try:
        match kind_name:
            case "bool":
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            case "int":
                return int(text)
            case "float":
                return float(text)
            case _:
                return text
    except (KeyError, ValueError) as error:
        raise UsageError(f"option '{key}' of {owner} wants {kind_name}, got '{text}'") from error
