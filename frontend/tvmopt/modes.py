"""The ways to quantize that one word asks for, and the passes behind them."""

from collections.abc import Mapping, Sequence

from tvmopt.errors import UsageError

MODES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "int8": ("annotate-quantization", {}),
    "int8-dynamic": ("quantize-weights", {"activations": "dynamic"}),
    "int8-weights": ("quantize-weights", {"activations": "float32"}),
}
"""The pass to add, and its options, by the value of `--quantize`."""

CALIBRATED = frozenset({"int8"})
"""Modes that learn ranges from calibration data."""


def add_mode(mode: str, passes: dict[str, dict[str, str]], exclude: Sequence[str] = ()) -> None:
    """Adds the pass of a mode to the passes that are asked for.

    Args:
        mode: one of `MODES`.
        passes: options by pass.
        exclude: patterns of nodes that stay float32, besides those in the pass's options.

    Raises:
        UsageError: an unknown mode, or options that say something else.
    """
    if mode not in MODES:
        raise UsageError(f"quantize is one of {', '.join(MODES)} or None, got '{mode}'")
    name, options = MODES[mode]
    asked = passes.setdefault(name, {})
    for key, value in options.items():
        if asked.setdefault(key, value) != value:
            message = f"quantize is '{mode}', which is {name}:{key}={value}"
            raise UsageError(f"{message}, but '{asked[key]}' is asked for")
    if exclude:
        asked["exclude"] = "|".join(filter(None, [asked.get("exclude", ""), *exclude]))
