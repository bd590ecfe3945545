"""Find plugins, load them one at a time, and turn names into classes."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from tvmopt import hookspecs
from tvmopt.backend import Backend
from tvmopt.errors import TvmoptError, UsageError, unknown_name
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
    origins: dict[type, str] = field(default_factory=dict[type, str])
    """Which plugin a backend or pass class came from."""

    @classmethod
    def load(cls) -> "Plugins":
        """Loads what the entry points of the group `tvmopt` name.

        The environment variable `TVMOPT_DISABLE_PLUGINS` switches off plugins of other
        distributions: `1` or `all` for every one, else a comma-separated list of their names.
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
            plugin: Any = source.load() if isinstance(source, EntryPoint) else source
            self.manager.register(plugin, name=name)
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            self._reject(name, described, error)
            return
        try:
            self.manager.check_pending()
            backends = self._collect(plugin, "tvmopt_register_backends", Backend, self.backends)
            passes = self._collect(plugin, "tvmopt_register_passes", Pass, self.passes)
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            self.manager.unregister(plugin)
            self._reject(name, described, error)
            return
        for registered, names in ((backends, self.backends), (passes, self.passes)):
            for item in registered:
                names[item.name] = item  # pyright: ignore[reportArgumentType]
                self.origins[item] = name
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(plugin) or []))
        self.infos.append(
            PluginInfo(
                *described,
                backends=tuple(b.name for b in backends),
                passes=tuple(p.name for p in passes),
                hooks=hooks,
            )
        )

    def _collect(
        self, plugin: object, hook: str, kind: type, taken: Mapping[str, type]
    ) -> list[type[Any]]:
        others = [p for p in self.manager.get_plugins() if p is not plugin]
        caller = self.manager.subset_hook_caller(hook, remove_plugins=others)
        found: list[type[Any]] = [item for result in caller() for item in result]
        seen: dict[str, type] = dict(taken)
        for item in found:
            if not (isinstance(item, type) and issubclass(item, kind)):  # pyright: ignore[reportUnnecessaryIsInstance]
                message = f"{hook} returned {item!r}, which is no subclass of {kind.__name__}"
                raise UsageError(message)
            if item.name in seen:
                first, second = _path_of(seen[item.name]), _path_of(item)
                message = f"the name '{item.name}' is used by both {first} and {second}"
                raise UsageError(message)
            seen[item.name] = item
        return found

    def _reject(
        self, name: str, described: tuple[str, str, str, str], error: Exception
    ) -> None:
        reason = str(error).strip() or "no message"
        if not isinstance(error, TvmoptError):
            reason = f"{type(error).__name__}: {reason}"
        self.infos = [info for info in self.infos if info.name != name]
        self.infos.append(PluginInfo(*described, error=reason))

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
            raise unknown_name("target", name, names)
        options: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"target '{spec}': '{pair}' is not of the form key=value")
            options[key] = value
        return names[name](name, options)

    def line_up(self, request: "CompileRequest") -> list[Pass]:
        """The passes of one compilation, in the order in which they run.

        The backend's passes come first; passes that only the request names are added at the end of
        their stage.

        Raises:
            UsageError: a pass or option that does not exist.
        """
        for name in [*request.options, *request.disabled]:
            if name not in self.passes:
                raise unknown_name("pass", name, self.passes)
        named = [*request.backend.passes()]
        named += [name for name in request.options if name not in named]
        chosen: list[Pass] = []
        for name in named:
            if name not in self.passes:
                raise unknown_name("pass", name, self.passes)
            if name not in request.disabled:
                chosen.append(self.passes[name].from_options(request.options.get(name, {})))
        chosen.sort(key=lambda p: p.stage)
        return chosen

    def modify_passes(self, passes: list[Pass], request: "CompileRequest") -> list[tuple[str, str]]:
        """Lets each plugin change `passes` in place; returns `(plugin, what changed)` pairs."""
        changes: list[tuple[str, str]] = []
        for name, plugin in self.manager.list_name_plugin():
            before = [p.name for p in passes]
            others = [p for p in self.manager.get_plugins() if p is not plugin]
            caller = self.manager.subset_hook_caller("tvmopt_modify_passes", remove_plugins=others)
            caller(passes=passes, request=request)
            after = [p.name for p in passes]
            if after != before:
                changes.append((name, f"changed the passes to {', '.join(after)}"))
        return changes

    def register_commands(self, cli: "click.Group") -> None:
        """Lets each plugin add subcommands; one that fails becomes a bad plugin."""
        for name, plugin in self.manager.list_name_plugin():
            others = [p for p in self.manager.get_plugins() if p is not plugin]
            hook = "tvmopt_register_commands"
            try:
                self.manager.subset_hook_caller(hook, remove_plugins=others)(cli=cli)
            except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
                old = next(i for i in self.infos if i.name == name)
                self._reject(name, (old.name, old.module, old.distribution, old.version), error)

    def compile_finished(self, request: "CompileRequest", report: "Report") -> None:
        """Tells every plugin that a compilation is done."""
        self.manager.hook.tvmopt_compile_finished(request=request, report=report)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("tvmopt")
    manager.add_hookspecs(hookspecs)
    return manager


def _is_external(entry: EntryPoint) -> bool:
    return entry.dist is None or entry.dist.name != "tvmopt"


def _is_disabled(name: str, disabled: str) -> bool:
    names: Iterable[str] = (part.strip() for part in disabled.split(","))
    return any(part in ("1", "all", name) for part in names)


def _info(entry: EntryPoint) -> tuple[str, str, str, str]:
    dist = entry.dist
    return entry.name, entry.value, dist.name if dist else "", dist.version if dist else ""


def _path_of(item: type) -> str:
    return f"{item.__module__}.{item.__qualname__}"
