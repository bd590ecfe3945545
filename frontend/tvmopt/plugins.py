"""Find plugins, load them one at a time, and turn names into classes."""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from tvmopt import hookspecs
from tvmopt.backend import Backend, Device
from tvmopt.calibration import Calibrator, Dataset, split_options
from tvmopt.errors import TvmoptError, UsageError, unknown_name
from tvmopt.metrics import Metric
from tvmopt.passes import Pass

if TYPE_CHECKING:
    import click

    from tvmopt.model import CompileRequest
    from tvmopt.report import Report

GROUP = "tvmopt"
DISABLE_VARIABLE = "TVMOPT_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginInfo:
    """One installed plugin: where it comes from, what it registers, and what is wrong with it."""

    name: str
    module: str
    distribution: str
    version: str
    backends: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    calibrators: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Plugins:
    """The plugins of one run of the program: a value that is passed around.

    `Plugins.load()` finds the installed ones. Tests register local ones with `Plugins.of(...)`.
    """

    manager: pluggy.PluginManager
    infos: list[PluginInfo] = field(default_factory=list[PluginInfo])
    backends: dict[str, type[Backend]] = field(default_factory=dict[str, type[Backend]])
    passes: dict[str, type[Pass]] = field(default_factory=dict[str, type[Pass]])
    calibrators: dict[str, type[Calibrator]] = field(default_factory=dict[str, type[Calibrator]])
    datasets: dict[str, type[Dataset]] = field(default_factory=dict[str, type[Dataset]])
    metrics: dict[str, type[Metric]] = field(default_factory=dict[str, type[Metric]])
    origins: dict[type, str] = field(default_factory=dict[type, str])
    """Which plugin a registered class came from."""

    @classmethod
    def load(cls) -> "Plugins":
        """Loads what the entry points of the group `tvmopt` name.

        The environment variable `TVMOPT_DISABLE_PLUGINS` switches off plugins of other
        distributions: `1`, `true` or `all` for every one, else a comma-separated list of their
        names.
        """
        plugins = cls(_manager())
        disabled = os.environ.get(DISABLE_VARIABLE, "")
        # First-party plugins first: a clash is then the newcomer's error.
        for entry in sorted(entry_points(group=GROUP), key=lambda e: (_is_external(e), e.name)):
            if _is_external(entry) and _is_disabled(entry.name, disabled):
                info = _info(entry)
                plugins.infos.append(PluginInfo(*info, error=f"switched off by {DISABLE_VARIABLE}"))
                continue
            plugins.add(entry.name, entry)
        return plugins

    @classmethod
    def of(cls, **plugins: object) -> "Plugins":
        """Makes a set of plugins from objects by name, without any installed one."""
        made = cls(_manager())
        for name, plugin in plugins.items():
            made.add(name, plugin)
        return made

    def add(self, name: str, source: object) -> None:
        """Loads and registers one plugin; what goes wrong is recorded and harms nobody else."""
        if isinstance(source, EntryPoint):
            described = _info(source)
        else:
            described = (name, getattr(source, "__name__", type(source).__name__), "", "")
        try:
            if self.manager.has_plugin(name):
                taken = next(i.module for i in self.infos if i.name == name and not i.error)
                message = f"the plugin name '{name}' is used by both {taken} and {described[1]}"
                raise UsageError(message)
            plugin: Any = source.load() if isinstance(source, EntryPoint) else source
            if self.manager.is_registered(plugin):
                other = self.manager.get_name(plugin)
                raise UsageError(f"{described[1]} is already loaded as the plugin '{other}'")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
            self.infos.append(PluginInfo(*described, error=_reason(error)))
            return
        try:
            self.manager.register(plugin, name=name)
            self.manager.check_pending()
            found = {kind: self._collect(plugin, kind) for kind in _KINDS}
            for kind, items in found.items():
                self._check_names(kind, items)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            self.infos.append(PluginInfo(*described, error=_reason(error)))
            return
        for kind, items in found.items():
            for item in items:
                self._registered(kind)[item.name] = item
                self.origins[item] = name
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(plugin) or []))
        self.infos.append(
            PluginInfo(
                *described,
                hooks=hooks,
                **{kind.names: tuple(item.name for item in found[kind]) for kind in _KINDS},  # pyright: ignore[reportArgumentType]
            )
        )

    def _registered(self, kind: "_Kind") -> dict[str, type[Any]]:
        return getattr(self, kind.names)

    def _call_one(self, plugin: object, hook: str, **arguments: object) -> list[Any]:
        others = [p for p in self.manager.get_plugins() if p is not plugin]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)

    def _collect(self, plugin: object, kind: "_Kind") -> list[type[Any]]:
        found = [item for result in self._call_one(plugin, kind.hook) for item in result]
        for item in found:
            if not (isinstance(item, type) and issubclass(item, kind.base)):
                message = f"{kind.hook} returned {item!r}, which is no subclass of"
                raise UsageError(f"{message} {kind.base.__name__}")
            missing = [a for a in kind.attributes if not hasattr(item, a)]
            missing += sorted(getattr(item, "__abstractmethods__", ()))
            if missing:
                raise UsageError(f"{_path_of(item)} does not define {', '.join(missing)}")
        return found

    def _check_names(self, kind: "_Kind", items: list[type[Any]]) -> None:
        taken: dict[str, type] = {**self._registered(kind)}
        if kind.base is Backend:
            taken.update(self.target_names())
        for item in items:
            devices: Iterable[Device] = getattr(item, "devices", ())
            for name in dict.fromkeys((item.name, *(d.name for d in devices))):
                _claim(taken, name, item)

    def _drop(self, name: str, error: BaseException) -> None:
        """Takes back all that a loaded plugin registered and records why."""
        self.manager.unregister(name=name)
        for names in map(self._registered, _KINDS):
            for key in [key for key, item in names.items() if self.origins.get(item) == name]:
                del names[key]
        self.origins = {item: origin for item, origin in self.origins.items() if origin != name}
        self.infos = [
            PluginInfo(i.name, i.module, i.distribution, i.version, error=_reason(error))
            if i.name == name and not i.error
            else i
            for i in self.infos
        ]

    @property
    def bad(self) -> list[PluginInfo]:
        """The plugins that could not be loaded."""
        return [info for info in self.infos if info.error]

    def target_names(self) -> dict[str, type[Backend]]:
        """All names that `--target` accepts: backends and their devices."""
        names: dict[str, type[Backend]] = {}
        for backend in self.backends.values():
            names[backend.name] = backend
            for device in backend.devices:
                names.setdefault(device.name, backend)
        return names

    def backend(self, spec: str) -> Backend:
        """The configured backend for a `--target` text such as `x86` or `x86-avx2,num-cores=2`.

        Raises:
            UsageError: an unknown target or option, with the nearest name as a hint.
        """
        name, *pairs = [part.strip() for part in spec.split(",")]
        names = self.target_names()
        if name not in names:
            error = self._unknown("target", name, names)
            key = name.partition("=")[0]
            having = [b for b in self.backends.values() if "=" in name and key in b.option_names]
            if having:  # an option without its target
                error.hint = f"did you mean '{having[0].name},{spec}'?"
            raise error
        options: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"target '{spec}': '{pair}' is not of the form key=value")
            options[key] = value
        return names[name](name, options)

    def calibrator(self, spec: str) -> Callable[[], Calibrator]:
        """Makes calibrators of one kind, of a text such as `percentile:percentile=99.9`.

        Raises:
            UsageError: an unknown calibrator or option, with the nearest name as a hint.
        """
        name, options = split_options(spec)
        if name not in self.calibrators:
            raise self._unknown("calibrator", name, self.calibrators)
        kind = self.calibrators[name]
        kind.from_options(options)  # a wrong option shall show now
        return lambda: kind.from_options(options)

    def dataset(self, spec: str) -> Dataset:
        """The data set for a text such as `digits:split=train`.

        Raises:
            UsageError: an unknown data set or option, with the nearest name as a hint.
        """
        name, options = split_options(spec)
        if name not in self.datasets:
            raise self._unknown("data set", name, self.datasets)
        return self.datasets[name].from_options(options)

    def metric(self, spec: str) -> Callable[[], Metric]:
        """Makes metrics of one kind, of a text such as `top1:axis=1`.

        Raises:
            UsageError: an unknown metric or option, with the nearest name as a hint.
        """
        name, options = split_options(spec)
        if name not in self.metrics:
            raise self._unknown("metric", name, self.metrics)
        kind = self.metrics[name]
        kind.from_options(options)  # a wrong option shall show now
        return lambda: kind.from_options(options)

    def line_up(self, request: "CompileRequest") -> list[Pass]:
        """The passes of one compilation, in the order in which they run.

        The backend's passes come first; passes that only the request names are added at the end of
        their stage.

        Raises:
            UsageError: a pass or option that does not exist, or a required pass that is disabled.
        """
        for name in [*request.options, *request.disabled]:
            if name not in self.passes:
                raise self._unknown("pass", name, self.passes)
        for name in sorted(request.disabled):
            if self.passes[name].required:
                raise UsageError(f"the pass '{name}' cannot be disabled: nothing runs without it")
        named = [*request.backend.passes()]
        named += [name for name in request.options if name not in named]
        chosen: list[Pass] = []
        for name in named:
            if name not in self.passes:
                raise self._unknown("pass", name, self.passes)
            if name not in request.disabled:
                chosen.append(self.passes[name].from_options(request.options.get(name, {})))
        chosen.sort(key=lambda p: p.stage)
        return chosen

    def _unknown(self, kind: str, name: str, known: Iterable[str]) -> UsageError:
        error = unknown_name(kind, name, known)
        if self.bad and not error.hint:
            bad = ", ".join(info.name for info in self.bad)
            error.hint = f"these plugins could not be loaded (`tvmopt plugins` says why): {bad}"
        return error

    def modify_passes(self, passes: list[Pass], request: "CompileRequest") -> list[tuple[str, str]]:
        """Lets each plugin change `passes` in place; returns `(plugin, what it did)` pairs.

        A plugin that fails, or leaves something that is no pass, changes nothing.
        """
        changes: list[tuple[str, str]] = []
        for name, plugin in self.manager.list_name_plugin():
            before = list(passes)
            try:
                self._call_one(plugin, "tvmopt_modify_passes", passes=passes, request=request)
                alien = [item for item in passes if not isinstance(item, Pass)]  # pyright: ignore[reportUnnecessaryIsInstance]
                if alien:
                    raise TypeError(f"{alien[0]!r} is no Pass")
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
                passes[:] = before
                reason = f"tvmopt_modify_passes failed and was ignored: {_reason(error)}"
                warnings.warn(f"plugin '{name}': {reason}", RuntimeWarning, stacklevel=2)
                changes.append((name, reason))
                continue
            if passes != before:
                line_up = ", ".join(p.name for p in passes)
                changes.append((name, f"changed the passes to {line_up}"))
        return changes

    def register_commands(self, cli: "click.Group") -> None:
        """Lets each plugin add subcommands; one that fails or takes a name in use becomes bad."""
        import click

        origin = {command: f"tvmopt's own '{name}'" for name, command in cli.commands.items()}
        for name, plugin in self.manager.list_name_plugin():
            own = click.Group()  # a plugin sees only its own, so that it adds all or nothing
            try:
                self._call_one(plugin, "tvmopt_register_commands", cli=own)
                for command in own.commands:
                    if command in cli.commands:
                        first = origin[cli.commands[command]]
                        message = f"the command '{command}' is used by both {first} and '{name}'"
                        raise UsageError(message)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
                self._drop(name, error)
                continue
            for command_name, command in own.commands.items():
                cli.add_command(command, command_name)
                origin[command] = f"the plugin '{name}'"
            self.infos = [
                replace(i, commands=tuple(own.commands)) if i.name == name and not i.error else i
                for i in self.infos
            ]

    def origin_of_command(self, command: str) -> str:
        """The name of the plugin that a subcommand came from; empty for tvmopt's own."""
        return next((i.name for i in self.infos if command in i.commands and not i.error), "")

    def compile_finished(self, request: "CompileRequest", report: "Report") -> None:
        """Tells every plugin that a compilation is done; one that fails causes a warning."""
        for name, plugin in self.manager.list_name_plugin():
            hook = "tvmopt_compile_finished"
            try:
                self._call_one(plugin, hook, request=request, report=report)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
                message = f"plugin '{name}': {hook} failed: {_reason(error)}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class _Kind:
    """What a hook registers: `names` is where `Plugins` and `PluginInfo` keep it."""

    names: str
    hook: str
    base: type
    attributes: tuple[str, ...]


_KINDS = (
    _Kind("backends", "tvmopt_register_backends", Backend, ("name", "description")),
    _Kind("passes", "tvmopt_register_passes", Pass, ("name", "stage")),
    _Kind("calibrators", "tvmopt_register_calibrators", Calibrator, ("name",)),
    _Kind("datasets", "tvmopt_register_datasets", Dataset, ("name", "description")),
    _Kind("metrics", "tvmopt_register_metrics", Metric, ("name",)),
)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("tvmopt")
    manager.add_hookspecs(hookspecs)
    return manager


def _is_external(entry: EntryPoint) -> bool:
    return _distribution(entry.dist)[0] != "tvmopt"


@cache
def _distribution(dist: Distribution | None) -> tuple[str, str]:
    """Name and version; reading them from disk takes a millisecond, so it is done once."""
    if dist is None:
        return "", ""
    metadata = dist.metadata
    return metadata["Name"], metadata["Version"]


_EVERY = ("1", "true", "yes", "on", "all")


def _is_disabled(name: str, disabled: str) -> bool:
    names: Iterable[str] = (part.strip() for part in disabled.split(","))
    return any(part == name or part.lower() in _EVERY for part in names)


def _info(entry: EntryPoint) -> tuple[str, str, str, str]:
    return entry.name, entry.value, *_distribution(entry.dist)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, TvmoptError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _claim(taken: dict[str, Any], name: str, item: type) -> None:
    if name in taken:
        first, second = _path_of(taken[name]), _path_of(item)
        raise UsageError(f"the name '{name}' is used by both {first} and {second}")
    taken[name] = item


def _path_of(item: type) -> str:
    return f"{item.__module__}.{item.__qualname__}"
