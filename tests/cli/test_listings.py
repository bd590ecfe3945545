"""`targets`, `plugins` and `doctor`."""

import json
import types
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import tvmopt.cli.doctor as doctor_module
from tvmopt import Backend, Capabilities, Device, Pass, Stage, hookimpl
from tvmopt.cli import main
from tvmopt.plugins import Plugins

Capture = pytest.CaptureFixture[str]


class Toaster(Backend):
    name: ClassVar[str] = "toaster"
    description: ClassVar[str] = "kitchen hardware"
    devices = (Device("toaster-wide", "four slots", {"slots": "4"}),)
    option_names: ClassVar[dict[str, str]] = {"slots": "slots in parallel"}

    @property
    def capabilities(self) -> Capabilities:
        slots = int(self.options.get("slots", "2"))
        return Capabilities(4, 16, slots, 32 << 10, 256 << 10, frozenset({"crumbs"}))

    def target(self) -> Any:
        raise NotImplementedError

    def schedule_rules(self) -> Any:
        raise NotImplementedError


class Broken(Toaster):
    name: ClassVar[str] = "broken"
    devices = ()

    @property
    def capabilities(self) -> Capabilities:
        raise OSError("no such device")


@dataclass(frozen=True)
class Crisp(Pass):
    """Makes weights crisp."""

    name: ClassVar[str] = "crisp"
    stage: ClassVar[Stage] = Stage.PRUNE

    how_much: int = 3

    def run(self, mod: Any, ctx: Any) -> Any:
        return mod


def kitchen() -> Plugins:
    plugin, bad = types.ModuleType("kitchen"), types.ModuleType("cellar")

    @hookimpl
    def backends() -> list[type[Backend]]:
        return [Toaster]

    @hookimpl
    def passes() -> list[type[Pass]]:
        return [Crisp]

    plugin.tvmopt_register_backends = backends
    plugin.tvmopt_register_passes = passes
    bad.tvmopt_register_passes = passes
    return Plugins.of(kitchen=plugin, cellar=bad)


def test_targets_lists_backends_devices_and_options(capsys: Capture):
    assert main(["targets"], kitchen()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "toaster         kitchen hardware",
        "  toaster-wide  four slots",
        "  ,slots=...    slots in parallel",
    ]


def test_targets_as_json(capsys: Capture):
    assert main(["targets", "--json"], kitchen()) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "toaster",
            "description": "kitchen hardware",
            "options": {"slots": "slots in parallel"},
            "devices": [
                {"name": "toaster-wide", "description": "four slots", "options": {"slots": "4"}}
            ],
            "plugin": "kitchen",
            "class": f"{__name__}.Toaster",
        }
    ]


def test_without_backends_targets_says_where_to_look(capsys: Capture):
    assert main(["targets"], Plugins.of()) == 0
    assert "tvmopt plugins" in capsys.readouterr().out


def test_plugins_lists_what_each_registers_and_why_the_bad_ones_are_bad(capsys: Capture):
    assert main(["plugins"], kitchen()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "kitchen  (kitchen)",
        "  backends     toaster",
        "  passes       crisp",
        "  hooks        tvmopt_register_backends, tvmopt_register_passes",
        "cellar  (cellar)",
        f"  NOT LOADED: the name 'crisp' is used by both {__name__}.Crisp and {__name__}.Crisp",
    ]


def test_a_plugin_without_hooks_is_told_so(capsys: Capture):
    assert main(["plugins"], Plugins.of(empty=types.ModuleType("empty"))) == 0
    assert "registers nothing" in capsys.readouterr().out


def test_plugins_v_shows_passes_with_their_options(capsys: Capture):
    assert main(["plugins", "-v"], kitchen()) == 0
    text = capsys.readouterr().out
    assert "crisp (prune): Makes weights crisp.\n      how-much=int (default 3)" in text


def test_plugins_as_json(capsys: Capture):
    assert main(["plugins", "--json"], kitchen()) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(one["name"], bool(one["error"])) for one in data["plugins"]] == [
        ("kitchen", False),
        ("cellar", True),
    ]
    assert data["passes"]["crisp"]["options"] == {"how-much": "int (default 3)"}


def test_doctor_finds_all_that_is_needed_here(capsys: Capture):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "0.1.15 crashes MetaSchedule" in text
    assert "everything that tvmopt needs is here" in text


def test_doctor_tells_what_a_parallel_region_costs(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tvmopt.compiler.threads.default_threads", lambda: 2)
    monkeypatch.setattr("tvmopt.compiler.launch.region_us", lambda threads: 0.4 * threads)
    main(["doctor"])
    assert "2; a parallel region takes 0.8 us" in capsys.readouterr().out


def test_doctor_tells_each_backends_features_and_survives_a_broken_one(capsys: Capture):
    plugins = kitchen()
    plugins.backends["broken"] = Broken
    assert main(["doctor", "--json"], plugins) == 0
    data = json.loads(capsys.readouterr().out)
    assert "2 cores, 4 float32 lanes" in data["backends"]["toaster"]
    assert "crumbs" in data["backends"]["toaster"]
    assert data["backends"]["broken"] == "not usable here: no such device"
    assert "cellar" in data["bad_plugins"]


def test_doctor_says_what_optional_things_are_for_and_how_to_get_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_module, "installed_version", lambda name: None)
    main(["doctor", "--json"], Plugins.of())
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["optional"]}
    assert set(rows) == {"onnxruntime", "openvino", "ziglang"}  # nothing that is not used yet
    assert all(row["purpose"] and row["remedy"] for row in rows.values())
    assert {row["status"] for row in rows.values()} == {"optional"}


def test_doctor_is_5_without_anything_to_link_with(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["doctor"], Plugins.of()) == 5
    assert "problem: linker is missing; install gcc or clang" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "status"), [(None, "missing"), ("0.1.15.post2", "wrong version")]
)
def test_doctor_is_5_when_a_requirement_is_not_met(
    version: str | None, status: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        doctor_module, "requirements", lambda name: [("apache-tvm-ffi", ">=0.1.14,<0.1.15")]
    )
    monkeypatch.setattr(doctor_module, "installed_version", lambda name: version)
    assert main(["doctor"], Plugins.of()) == 5
    captured = capsys.readouterr()
    assert captured.err == (
        f"problem: apache-tvm-ffi is {status}; pip install 'apache-tvm-ffi>=0.1.14,<0.1.15'\n"
    )
    assert status.upper() in captured.out
