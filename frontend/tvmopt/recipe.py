"""A compilation written down: the YAML file that `tvmopt compile --recipe` reads.

    model: resnet18.onnx            # relative to this file, like `output`
    target: x86-avx2
    output: resnet18.tvmpkg
    input-shapes: {x: [1, 3, 224, 224]}
    dims: {batch: 1}
    passes:
      - fuse
      - layout: {block: 8}
    disable-passes: [merge-parallel-matmuls]
    quantize: int8
    calibration: train.npz          # a file or folder relative to this file, or a data set
    calibrator: percentile:percentile=99.9
    calibration-samples: 100
    exclude: [/head/*, "op:matmul"]
    max-drop: 1%
    metric: top1
    dataset: eval.npz
    measure: true
    if-slower: keep
    verify: true

Every key may be left out; what the command line says comes before what the recipe says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tvmopt.errors import UsageError
from tvmopt.metrics import MaxDrop
from tvmopt.modes import MODES

if TYPE_CHECKING:
    from tvmopt.plugins import Plugins

KEYS = (
    "model",
    "target",
    "output",
    "input-shapes",
    "dims",
    "passes",
    "disable-passes",
    "quantize",
    "calibration",
    "calibrator",
    "calibration-samples",
    "exclude",
    "max-drop",
    "metric",
    "dataset",
    "measure",
    "if-slower",
    "verify",
)


@dataclass(frozen=True)
class Quantization:
    """What options or keys say of quantization; None or empty where they say nothing."""

    quantize: str | None = None
    calibration: str | None = None
    calibrator: str | None = None
    calibration_samples: int | None = None
    exclude: tuple[str, ...] = ()
    max_drop: str | None = None
    metric: str | None = None
    dataset: str | None = None
    measure: bool | None = None
    if_slower: Literal["keep", "float"] | None = None

    def over(self, other: "Quantization") -> "Quantization":
        """This, and where it says nothing, what the other one says."""
        names = [one.name for one in fields(self)]
        said = {n: getattr(self, n) for n in names if getattr(self, n) not in (None, ())}
        return replace(other, **said)


@dataclass(frozen=True)
class Recipe:
    """What a recipe says; None or empty where it says nothing."""

    model: Path | None = None
    target: str | None = None
    output: Path | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    passes: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    disabled: frozenset[str] = frozenset()
    quantization: Quantization = Quantization()
    verify: bool | None = None


def read_recipe(path: Path, plugins: "Plugins") -> Recipe:
    """Reads and checks a recipe.

    Raises:
        UsageError: names the file, the key and, for a misspelt name, the nearest one.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"the recipe '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"the recipe '{path}' cannot be read: {reason}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"recipe '{path}'{line}: this is no YAML: {problem}") from error
    reader = _Reader(path, plugins)
    if data is None:
        return Recipe()
    if not isinstance(data, dict):
        raise reader.wrong("", f"expected `key: value` lines, got a {type(data).__name__}")
    _check_unique(reader, root)
    return reader.read(cast("dict[Any, Any]", data))


def _check_unique(reader: "_Reader", node: Any, prefix: str = "") -> None:
    """YAML's last value of a repeated key would silently win."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise reader.wrong(prefix + name, f"line {line} gives this key again")
            seen.add(name)
            _check_unique(reader, value, f"{prefix}{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_unique(reader, value, prefix)


@dataclass(frozen=True)
class _Reader:
    path: Path
    plugins: "Plugins"

    def wrong(self, key: str, message: str, hint: str | None = None) -> UsageError:
        where = f", key '{key}'" if key else ""
        return UsageError(f"recipe '{self.path}'{where}: {message}", hint)

    def read(self, data: dict[Any, Any]) -> Recipe:
        for key in data:
            self.known(str(key), str(key), KEYS, "key")
        return Recipe(
            model=self.file(data, "model"),
            target=self.target(data),
            output=self.file(data, "output"),
            input_shapes=self.table(data, "input-shapes", self.shape),
            dims=self.table(data, "dims", self.size),
            passes=self.passes(data.get("passes")),
            disabled=frozenset(self.pass_names(data.get("disable-passes"))),
            quantization=self.quantization(data),
            verify=self.truth(data, "verify"),
        )

    def quantization(self, data: dict[Any, Any]) -> Quantization:
        samples = data.get("calibration-samples")
        return Quantization(
            quantize=self.choice(data, "quantize", list(MODES)),
            calibration=self.data(data, "calibration"),
            calibrator=self.named(data, "calibrator", self.plugins.calibrator),
            calibration_samples=None
            if samples is None
            else self.size("calibration-samples", samples),
            exclude=self.texts(data, "exclude"),
            max_drop=self.drop(data),
            metric=self.named(data, "metric", self.plugins.metric),
            dataset=self.data(data, "dataset"),
            measure=self.truth(data, "measure"),
            if_slower=self.choice(data, "if-slower", ("keep", "float")),
        )

    def known(self, key: str, name: str, names: Iterable[str], kind: str) -> None:
        names = list(names)
        if name in names:
            return
        near = get_close_matches(name, names, n=1)
        there = ", ".join(names)
        hint = f"did you mean '{near[0]}'?" if near else None
        raise self.wrong(key, f"no {kind} is called '{name}'; there is {there}", hint)

    def text(self, data: dict[Any, Any], key: str) -> str | None:
        value = data.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.wrong(key, f"expected text, got {value!r}")
        return value

    def drop(self, data: dict[Any, Any]) -> str | None:
        value = data.get("max-drop")
        if value is not None:
            self.prefixed("max-drop", lambda: MaxDrop.parse(str(value)))
        return None if value is None else str(value)

    def truth(self, data: dict[Any, Any], key: str) -> bool | None:
        value = data.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, f"expected true or false, got {value!r}")
        return value

    def choice(self, data: dict[Any, Any], key: str, choices: Sequence[str]) -> Any:
        text = self.text(data, key)
        if text is not None:
            self.known(key, text, choices, "value")
        return text

    def texts(self, data: dict[Any, Any], key: str) -> tuple[str, ...]:
        value = data.get(key)
        if value is None:
            return ()
        given = tuple(cast("list[Any]", value)) if isinstance(value, list) else (value,)
        if not all(isinstance(one, str) and one for one in given):
            raise self.wrong(key, f"expected a list of texts, got {value!r}")
        return cast("tuple[str, ...]", given)

    def named(self, data: dict[Any, Any], key: str, check: Callable[[str], object]) -> str | None:
        text = self.text(data, key)
        if text is not None:
            self.prefixed(key, lambda: check(text))
        return text

    def data(self, data: dict[Any, Any], key: str) -> str | None:
        """A file or folder beside the recipe, or the name of a data set."""
        text = self.text(data, key)
        if text is None:
            return None
        beside = self.path.parent / text
        is_file = beside.exists() or "/" in text or beside.suffix in (".npz", ".npy")
        return str(beside) if is_file else text

    def file(self, data: dict[Any, Any], key: str) -> Path | None:
        text = self.text(data, key)
        return self.path.parent / text if text else None

    def target(self, data: dict[Any, Any]) -> str | None:
        text = self.text(data, "target")
        if text is not None:
            self.prefixed("target", lambda: self.plugins.backend(text))
        return text

    def table(
        self, data: dict[Any, Any], key: str, item: Callable[[str, Any], Any]
    ) -> dict[str, Any]:
        value = data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, f"expected `name: value` lines, got {value!r}")
        items = cast("dict[Any, Any]", value).items()
        return {str(name): item(f"{key}.{name}", one) for name, one in items}

    def shape(self, key: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise self.wrong(
                key, f"expected a list of sizes such as [1, 3, 224, 224], got {value!r}"
            )
        return tuple(self.size(key, size) for size in cast("list[Any]", value))

    def size(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, f"expected a positive whole number, got {value!r}")
        return value

    def pass_names(self, value: Any) -> list[str]:
        key = "disable-passes"
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, f"expected a list of pass names, got {value!r}")
        for name in cast("list[Any]", value):
            self.known(key, str(name), self.plugins.passes, "pass")
        return [str(name) for name in cast("list[Any]", value)]

    def passes(self, value: Any) -> dict[str, dict[str, str]]:
        if value is None:
            return {}
        if not isinstance(value, list):
            message = f"expected a list of names or `name: {{option: value}}`, got {value!r}"
            raise self.wrong("passes", message)
        found: dict[str, dict[str, str]] = {}
        for item in cast("list[Any]", value):
            entry = cast("dict[Any, Any]", item) if isinstance(item, dict) else {item: None}
            for name, options in entry.items():
                self.known("passes", str(name), self.plugins.passes, "pass")
                found[str(name)] = self.options(str(name), options)
        return found

    def options(self, name: str, value: Any) -> dict[str, str]:
        key = f"passes.{name}"
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, f"expected `option: value` lines, got {value!r}")
        options: dict[str, str] = {}
        for option, setting in cast("dict[Any, Any]", value).items():
            if not isinstance(setting, bool | int | float | str):
                raise self.wrong(f"{key}.{option}", f"expected one value, got {setting!r}")
            options[str(option)] = (
                str(setting).lower() if isinstance(setting, bool) else str(setting)
            )
        self.prefixed(key, lambda: self.plugins.passes[name].from_options(options))
        return options

    def prefixed(self, key: str, check: Callable[[], object]) -> None:
        """Runs a check of the core and names the file and the key in its error."""
        try:
            check()
        except UsageError as error:
            raise self.wrong(key, str(error), error.hint) from None
