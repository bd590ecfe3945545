"""Plugins are found, kept apart, and blamed one at a time."""

import types
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import click
import pytest

import tvmopt.plugins
from tvmopt import (
    Backend,
    Capabilities,
    CompileRequest,
    Device,
    ModelSource,
    Pass,
    Report,
    Stage,
    UsageError,
    hookimpl,
)
from tvmopt.plugins import Plugins


def a_pass(pass_name: str, pass_stage: Stage = Stage.CANONICALIZE) -> type[Pass]:
    @dataclass(frozen=True)
    class Made(Pass):
        name: ClassVar[str] = pass_name
        stage: ClassVar[Stage] = pass_stage

        limit: int = 3
        fast: bool = False
        scale: float = 1.0
        method: str = "minmax"

        def run(self, mod: Any, ctx: Any) -> Any:
            return mod

    Made.__qualname__ = f"Made_{pass_name}"
    return Made


def a_backend(backend_name: str, *device_names: str, runs: tuple[str, ...] = ()) -> type[Backend]:
    class Made(Backend):
        name: ClassVar[str] = backend_name
        description: ClassVar[str] = "a backend of the tests"
        devices = tuple(Device(d, "a device", {"speed": "slow"}) for d in device_names)
        option_names: ClassVar[dict[str, str]] = {"speed": "slow or fast"}

        @property
        def capabilities(self) -> Capabilities:
            return Capabilities(4, 16, 1, 1 << 15, 1 << 18)

        def target(self) -> Any:
            raise NotImplementedError

        def schedule_rules(self) -> Any:
            return []

        def passes(self) -> tuple[str, ...]:
            return runs

    Made.__qualname__ = f"Made_{backend_name}"
    return Made


def a_plugin(**hooks: Any) -> types.ModuleType:
    plugin = types.ModuleType("a_plugin")
    for name, implementation in hooks.items():
        setattr(plugin, f"tvmopt_{name}", hookimpl(implementation))
    return plugin


def bringing(*passes: type[Pass], backends: tuple[type[Backend], ...] = ()) -> object:
    return a_plugin(register_passes=lambda: list(passes), register_backends=lambda: list(backends))


def a_request(backend: Backend, **given: Any) -> CompileRequest:
    return CompileRequest(ModelSource(tvmopt.plugins.__file__), backend, **given)  # type: ignore[arg-type]


def fail(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("the SDK is\nnot installed")


# --- what a plugin brings ---


def test_registered_passes_and_backends_are_known_by_name():
    one, x = a_pass("one"), a_backend("x", "x-small")
    plugins = Plugins.of(p=bringing(one, backends=(x,)))
    assert plugins.passes == {"one": one}
    assert plugins.target_names() == {"x": x, "x-small": x}
    assert plugins.origins == {one: "p", x: "p"}
    info = plugins.infos[0]
    assert (info.passes, info.backends, info.error) == (("one",), ("x",), "")
    assert info.hooks == ("tvmopt_register_backends", "tvmopt_register_passes")


def test_a_backend_does_not_quantize_unless_it_says_how():
    assert a_backend("alpha")().quantization() is None


def test_two_values_do_not_share_plugins():
    Plugins.of(p=bringing(a_pass("one")))
    assert Plugins.of().passes == {}


# --- broken plugins ---

BROKEN = {
    "raises in a hook": (a_plugin(register_passes=fail), "the SDK is not installed"),
    "returns no list": (a_plugin(register_passes=lambda: 3), "not iterable"),
    "returns no class": (a_plugin(register_passes=lambda: ["one"]), "no subclass of Pass"),
    "returns another class": (a_plugin(register_backends=lambda: [int]), "no subclass of Backend"),
    "implements no known hook": (a_plugin(register_pases=lambda: [int]), "tvmopt_register_pases"),
    "wants unknown arguments": (a_plugin(register_passes=lambda extra: []), "extra"),
    "exits": (a_plugin(register_passes=lambda: exit(3)), "SystemExit: 3"),
    "registers an incomplete pass": (
        a_plugin(register_passes=lambda: [type("Nameless", (Pass,), {"run": None})]),
        "Nameless does not define name, stage",
    ),
    "registers an abstract backend": (
        a_plugin(
            register_backends=lambda: [type("Bare", (Backend,), {"name": "b", "description": ""})]
        ),
        "Bare does not define capabilities, schedule_rules, target",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_bad_and_the_others_work(case: str):
    broken, reason = BROKEN[case]
    plugins = Plugins.of(first=bringing(a_pass("one")), broken=broken, last=bringing(a_pass("two")))
    assert list(plugins.passes) == ["one", "two"]
    assert [info.name for info in plugins.bad] == ["broken"]
    assert reason in plugins.bad[0].error
    assert "\n" not in plugins.bad[0].error


def test_a_broken_plugin_leaves_nothing_registered():
    plugins = Plugins.of(
        p=a_plugin(
            register_passes=lambda: [a_pass("one")],
            register_backends=fail,
            modify_passes=lambda passes: passes.clear(),
        )
    )
    assert plugins.passes == {}
    passes: list[Pass] = [a_pass("two")()]
    assert plugins.modify_passes(passes, a_request(a_backend("x")())) == []
    assert len(passes) == 1


def test_a_plugin_whose_module_does_not_import_is_bad(monkeypatch: pytest.MonkeyPatch):
    entries = [EntryPoint("gone", "a_module_that_is_not_there", "tvmopt")]
    monkeypatch.setattr(tvmopt.plugins, "entry_points", lambda **_: entries)
    plugins = Plugins.load()
    assert [info.name for info in plugins.infos] == ["gone"]
    assert "No module named 'a_module_that_is_not_there'" in plugins.bad[0].error


# --- clashes ---


def test_a_pass_name_in_use_names_both_classes():
    plugins = Plugins.of(first=bringing(a_pass("one")), second=bringing(a_pass("one")))
    name = a_pass("one").__qualname__
    assert plugins.bad[0].name == "second"
    assert plugins.bad[0].error.count(f"{__name__}.{name}") == 2
    assert plugins.origins[plugins.passes["one"]] == "first"


def test_a_plugin_cannot_take_the_name_of_anothers_device():
    first, second = a_backend("x", "x-small"), a_backend("x-small")
    plugins = Plugins.of(a=bringing(backends=(first,)), b=bringing(backends=(second,)))
    assert plugins.bad[0].name == "b"
    assert "Made_x " in plugins.bad[0].error
    assert "Made_x-small" in plugins.bad[0].error
    assert plugins.target_names()["x-small"] is first


def test_a_clash_within_one_plugin_is_found():
    plugins = Plugins.of(p=bringing(a_pass("one"), a_pass("one")))
    assert "'one' is used by both" in plugins.bad[0].error
    assert plugins.passes == {}


def test_a_plugin_name_in_use_is_the_newcomers_error():
    plugins = Plugins.of(p=bringing(a_pass("one")))
    plugins.add("p", bringing(a_pass("two")))
    assert list(plugins.passes) == ["one"]
    assert [bool(info.error) for info in plugins.infos] == [False, True]
    assert "plugin name 'p' is used by both" in plugins.bad[0].error


def test_the_same_object_twice_leaves_the_first_alone():
    plugin = bringing(a_pass("one"))
    plugins = Plugins.of(p=plugin, q=plugin)
    assert plugins.bad[0].name == "q"
    assert plugins.backend is not None
    assert list(plugins.passes) == ["one"]


# --- switching off ---


def _external(monkeypatch: pytest.MonkeyPatch, switched_off: str) -> Plugins:
    entries = [EntryPoint("ext", "json", "tvmopt"), EntryPoint("other", "string", "tvmopt")]
    monkeypatch.setattr(tvmopt.plugins, "entry_points", lambda **_: entries)
    monkeypatch.setenv("TVMOPT_DISABLE_PLUGINS", switched_off)
    return Plugins.load()


@pytest.mark.parametrize(
    ("value", "off"),
    [
        ("", []),
        ("0", []),
        ("1", ["ext", "other"]),
        ("True", ["ext", "other"]),
        ("all", ["ext", "other"]),
        (" other , x", ["other"]),
    ],
)
def test_external_plugins_can_be_switched_off(
    value: str, off: list[str], monkeypatch: pytest.MonkeyPatch
):
    plugins = _external(monkeypatch, value)
    assert [info.name for info in plugins.bad] == off
    assert all("TVMOPT_DISABLE_PLUGINS" in info.error for info in plugins.bad)


def test_plugins_of_tvmopt_itself_stay_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TVMOPT_DISABLE_PLUGINS", "1")
    plugins = Plugins.load()
    assert "x86" in plugins.backends
    assert "fuse" in plugins.passes


# --- targets and line-ups ---


def test_a_target_takes_its_devices_options_and_then_the_written_ones():
    plugins = Plugins.of(p=bringing(backends=(a_backend("x", "x-small"),)))
    assert plugins.backend("x").options == {}
    assert plugins.backend("x-small").options == {"speed": "slow"}
    assert plugins.backend("x-small, speed=fast").options == {"speed": "fast"}


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("zz", "no target is called 'zz'; there is x, x-small", None),
        ("x-smal", "no target is called 'x-smal'", "did you mean 'x-small'?"),
        ("x,sped=1", "no option of target 'x' is called 'sped'", "did you mean 'speed'?"),
        ("speed=fast", "no target is called 'speed=fast'", "did you mean 'x,speed=fast'?"),
        ("x,speed", "'speed' is not of the form key=value", None),
    ],
)
def test_a_misspelt_target_gets_the_nearest_name(spec: str, message: str, hint: str | None):
    plugins = Plugins.of(p=bringing(backends=(a_backend("x", "x-small"),)))
    with pytest.raises(UsageError) as caught:
        plugins.backend(spec)
    assert message in str(caught.value)
    assert caught.value.hint == hint


def test_an_unknown_name_points_at_plugins_that_did_not_load():
    plugins = Plugins.of(mine=a_plugin(register_passes=fail))
    with pytest.raises(UsageError) as caught:
        plugins.backend("x")
    assert "mine" in (caught.value.hint or "")


def test_the_line_up_runs_by_stage_and_then_as_listed():
    late, early = a_pass("late", Stage.FUSE), a_pass("early")
    extra = a_pass("extra")
    x = a_backend("x", runs=("late", "early"))
    plugins = Plugins.of(p=bringing(late, early, extra, backends=(x,)))
    options = {"extra": {"limit": "7", "fast": "true", "scale": "0.5"}}
    chosen = plugins.line_up(a_request(x(), options=options))
    assert [p.name for p in chosen] == ["early", "extra", "late"]
    assert chosen[1] == extra(limit=7, fast=True, scale=0.5)  # type: ignore[call-arg]


def test_a_disabled_pass_does_not_run():
    x = a_backend("x", runs=("one", "two"))
    plugins = Plugins.of(p=bringing(a_pass("one"), a_pass("two"), backends=(x,)))
    request = a_request(x(), disabled=frozenset({"one"}))
    assert [p.name for p in plugins.line_up(request)] == ["two"]


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"options": {"on": {}}}, "no pass is called 'on'; there is one", "did you mean 'one'?"),
        ({"disabled": frozenset({"twoo"})}, "no pass is called 'twoo'", None),
        ({"options": {"one": {"limt": "3"}}}, "'limt'", "did you mean 'limit'?"),
        ({"options": {"one": {"limit": "a"}}}, "'limit' of pass 'one' wants int, got 'a'", None),
        ({"options": {"one": {"fast": "y"}}}, "wants bool, got 'y'", None),
    ],
)
def test_a_wrong_pass_or_option_is_named(given: dict[str, Any], message: str, hint: str | None):
    x = a_backend("x", runs=("one",))
    plugins = Plugins.of(p=bringing(a_pass("one"), backends=(x,)))
    with pytest.raises(UsageError) as caught:
        plugins.line_up(a_request(x(), **given))
    assert message in str(caught.value)
    assert caught.value.hint == hint


# --- hooks that are called during a compilation ---


def test_a_plugin_can_change_the_passes_and_is_named():
    plugins = Plugins.of(
        still=a_plugin(modify_passes=lambda: None),
        busy=a_plugin(modify_passes=lambda passes: passes.reverse()),
    )
    passes: list[Pass] = [a_pass("one")(), a_pass("two")()]
    changes = plugins.modify_passes(passes, a_request(a_backend("x")()))
    assert [p.name for p in passes] == ["two", "one"]
    assert changes == [("busy", "changed the passes to two, one")]


def test_new_options_of_a_pass_are_a_change_too():
    one = a_pass("one")

    def modify(passes: list[Pass]) -> None:
        passes[0] = one(limit=9)  # type: ignore[call-arg]

    plugins = Plugins.of(p=a_plugin(modify_passes=modify))
    assert plugins.modify_passes([one()], a_request(a_backend("x")()))


@pytest.mark.parametrize("kind", ["raises", "leaves junk"])
def test_a_plugin_that_fails_to_change_the_passes_changes_nothing(kind: str):
    def modify(passes: list[Any]) -> None:
        passes[:] = ["junk"]
        if kind == "raises":
            fail()

    plugins = Plugins.of(p=a_plugin(modify_passes=modify))
    passes: list[Pass] = [a_pass("one")()]
    with pytest.warns(RuntimeWarning, match="plugin 'p'"):
        changes = plugins.modify_passes(passes, a_request(a_backend("x")()))
    assert [p.name for p in passes] == ["one"]
    assert "was ignored" in changes[0][1]


def test_every_plugin_is_told_of_a_finished_compilation_even_if_one_fails():
    told: list[Report] = []
    plugins = Plugins.of(
        bad=a_plugin(compile_finished=fail),
        good=a_plugin(compile_finished=lambda report: told.append(report)),
    )
    report = Report()
    with pytest.warns(RuntimeWarning, match="plugin 'bad': tvmopt_compile_finished failed"):
        plugins.compile_finished(a_request(a_backend("x")()), report)
    assert told == [report]


# --- commands ---


def adds(*names: str) -> Any:
    def register(cli: click.Group) -> None:
        for name in names:
            cli.add_command(click.Command(name))

    return register


def test_a_plugin_adds_a_command():
    plugins = Plugins.of(p=a_plugin(register_commands=adds("hello")))
    cli = click.Group(commands=[click.Command("compile")])
    plugins.register_commands(cli)
    assert list(cli.commands) == ["compile", "hello"]
    assert plugins.infos[0].commands == ("hello",)


def test_a_command_name_in_use_names_both_and_takes_all_back():
    own = a_plugin(
        register_commands=adds("hello", "compile"), register_passes=lambda: [a_pass("one")]
    )
    plugins = Plugins.of(p=own, q=bringing(a_pass("two")))
    compile_command = click.Command("compile")
    cli = click.Group(commands=[compile_command])
    plugins.register_commands(cli)
    assert cli.commands == {"compile": compile_command}
    assert (
        plugins.bad[0].error
        == "the command 'compile' is used by both tvmopt's own 'compile' and 'p'"
    )
    assert list(plugins.passes) == ["two"]


def test_two_plugins_with_one_command_are_both_named():
    plugins = Plugins.of(
        p=a_plugin(register_commands=adds("hi")), q=a_plugin(register_commands=adds("hi"))
    )
    plugins.register_commands(click.Group())
    assert plugins.bad[0].error == "the command 'hi' is used by both the plugin 'p' and 'q'"


def test_a_plugin_whose_commands_fail_is_bad():
    plugins = Plugins.of(p=a_plugin(register_commands=fail))
    plugins.register_commands(click.Group())
    assert "the SDK is not installed" in plugins.bad[0].error


def test_loading_the_installed_plugins_causes_no_warning_and_no_bad_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins = Plugins.load()
    assert [i for i in plugins.bad if i.distribution == "tvmopt"] == []
