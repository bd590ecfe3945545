"""JSON read back into dataclasses, every value checked against the type of its field."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def typed(kind: Any, value: Any, name: str) -> Any:
    """`value`, made of what `json.loads` makes, as a `kind`; `name` is what errors call it.

    A kind is a dataclass, `tuple`, `list`, mapping or union of kinds, a literal, a plain type or
    `Any`. Members that a dataclass does not know are left out: a newer program may write more.

    Raises:
        ValueError: it does not fit; the message says what and where.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _record(kind, value, name)
    if origin in (tuple, list):
        return _sequence(origin, arguments, value, name)
    if origin in (dict, Mapping):
        return {k: typed(arguments[1], v, f"{name}.{k}") for k, v in _object(value, name).items()}
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not types.NoneType]
        assert len(rest) == 1, f"no way to tell the kinds of {kind} apart"
        return None if value is None else typed(rest[0], value, name)
    if origin is Literal:
        if value not in arguments:
            raise _unfit(name, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if isinstance(value, bool) and kind is not bool:  # a bool is an int to Python
        raise _unfit(name, _WORDS[kind], value)
    if not isinstance(value, (int, float) if kind is float else kind):
        raise _unfit(name, _WORDS[kind], value)
    return value


def _record(kind: Any, value: Any, name: str) -> Any:
    given, hints = _object(value, name), get_type_hints(kind)
    read: dict[str, Any] = {}
    for field in fields(kind):
        path = f"{name}.{field.name}" if name else field.name
        if field.name in given:
            read[field.name] = typed(hints[field.name], given[field.name], path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"'{path}' is missing")
    return kind(**read)


def _sequence(origin: Any, arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise _unfit(name, "a list", value)
    rows = cast("list[Any]", value)
    if origin is list or arguments[-1] is Ellipsis:
        kinds = [arguments[0]] * len(rows)
    elif len(arguments) == len(rows):
        kinds = list(arguments)
    else:
        raise _unfit(name, f"a list of {len(arguments)}", value)
    return origin(
        typed(kind, row, f"{name}[{index}]")
        for index, (kind, row) in enumerate(zip(kinds, rows, strict=True))
    )


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unfit(name, "an object", value)
    return cast("dict[str, Any]", value)


def _unfit(name: str, wanted: str, value: Any) -> ValueError:
    shown = repr(value)
    return ValueError(f"'{name}' must be {wanted}, not {shown if len(shown) < 40 else '...'}")
