"""A real separate distribution is installed, found, and used through its entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

SOURCE = Path(__file__).parent / "example_plugin"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example plugin is installed into, by pip, without a network."""
    folder = tmp_path_factory.mktemp("site")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`y = floor(floor(x)) + x`."""
    nodes = [
        helper.make_node("Floor", ["x"], ["f"], "floor1"),
        helper.make_node("Floor", ["f"], ["g"], "floor2"),
        helper.make_node("Add", ["g", "x"], ["y"], "add1"),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 30]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", tensors[:1], tensors[1:])
    path = tmp_path_factory.mktemp("model") / "floors.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def tvmopt(
    installed: Path, *arguments: object, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the program with the plugin installed."""
    command = [sys.executable, "-m", "tvmopt", *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, **variables}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_it_is_listed_with_all_that_it_registers(installed: Path):
    plugins = json.loads(tvmopt(installed, "plugins", "--json").stdout)["plugins"]
    info = next(one for one in plugins if one["name"] == "example")
    assert (info["distribution"], info["version"]) == ("tvmopt-example", "1.2.3")
    assert info["passes"] == ["example-drop-repeats"]
    assert info["backends"] == ["example-sse"]
    assert info["commands"] == ["example-schedules"]
    assert info["error"] == ""


def test_its_backend_and_device_are_targets_and_its_command_is_offered(installed: Path):
    targets = tvmopt(installed, "targets").stdout
    assert "example-sse" in targets
    assert "example-dual" in targets
    assert "x86-avx2" in targets
    assert "example-schedules" in tvmopt(installed, "--help").stdout


def test_it_costs_the_light_commands_no_import_of_tvm(installed: Path):
    code = "import sys; from tvmopt.cli import main; main(['plugins'])"
    code += "; assert 'tvm' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)


def test_it_can_be_switched_off(installed: Path):
    for value in ("1", "example"):
        done = tvmopt(installed, "targets", TVMOPT_DISABLE_PLUGINS=value)
        assert "example" not in done.stdout
        listed = tvmopt(installed, "plugins", TVMOPT_DISABLE_PLUGINS=value).stdout
        assert "switched off by TVMOPT_DISABLE_PLUGINS" in listed


def _passes(text: str) -> list[str]:
    return [row["name"] for row in json.loads(text)["report"]["passes"]]


def test_its_pass_runs_when_it_is_named_and_only_then(installed: Path, model: Path, tmp_path: Path):
    output = tmp_path / "n.tvmpkg"
    plain = tvmopt(installed, "compile", model, "-o", output, "--json").stdout
    assert "example-drop-repeats" not in _passes(plain)
    named = ["--pass", "example-drop-repeats:operator=floor"]
    report = tvmopt(installed, "compile", model, "-o", output, "--json", *named).stdout
    assert "example-drop-repeats" in _passes(report)
    remarks = json.loads(report)["report"]["remarks"]
    assert ("passed", "example-drop-repeats", "floor2") in {
        (remark["kind"], remark["pass_name"], remark["op"]) for remark in remarks
    }
    origin = {row["name"]: row["origin"] for row in json.loads(report)["report"]["passes"]}
    assert origin["example-drop-repeats"] == "example"


def test_a_misspelt_option_of_its_pass_is_suggested(installed: Path, model: Path, tmp_path: Path):
    arguments = ["-o", tmp_path / "n.tvmpkg", "--pass", "example-drop-repeats:operater=floor"]
    done = tvmopt(installed, "compile", model, *arguments, code=2)
    assert done.stderr.splitlines()[-1] == "hint: did you mean 'operator'?"


def test_its_backend_compiles_a_package_that_runs(installed: Path, model: Path, tmp_path: Path):
    output, log = tmp_path / "n.tvmpkg", tmp_path / "log.json"
    arguments = ["compile", model, "--target", "example-dual", "-o", output, "--json"]
    report = json.loads(tvmopt(installed, *arguments, TVMOPT_EXAMPLE_LOG=str(log)).stdout)
    assert report["target"]["name"] == "example-dual"
    assert report["target"]["tvm"]["mcpu"] == "x86-64-v2"
    assert report["verification"]["outputs"][0]["max_abs"] == 0
    # Its backend's own wish, and its hook at the end:
    assert "example-drop-repeats" in [row["name"] for row in report["report"]["passes"]]
    assert json.loads(log.read_text())["model"] == "floors.onnx"

    np.save(tmp_path / "x.npy", np.linspace(-3, 3, 60, dtype="float32").reshape(2, 30))
    done = tvmopt(installed, "run", output, "--inputs", tmp_path / "x.npy", "--json")
    x = np.load(tmp_path / "x.npy")
    assert json.loads(done.stdout)["outputs"][0]["values"] == (np.floor(x) + x).tolist()

    counts = tvmopt(installed, "example-schedules", output).stdout.split()
    assert sum(map(int, counts[1::2])) == len(report["report"]["layers"])


def test_its_command_reports_a_users_error_like_any_other(installed: Path, tmp_path: Path):
    done = tvmopt(installed, "example-schedules", tmp_path / "gone.tvmpkg", code=4)
    assert done.stderr.startswith("error: there is no package ")
    assert "Traceback" not in done.stderr


def test_a_package_of_its_backend_runs_without_the_plugin(
    installed: Path, model: Path, tmp_path: Path
):
    output = tmp_path / "n.tvmpkg"
    tvmopt(installed, "compile", model, "--target", "example-sse", "-o", output)
    tvmopt(installed, "run", output, TVMOPT_DISABLE_PLUGINS="example")


BROKEN = """
from tvmopt import hookimpl
{body}
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import a_vendor_sdk", "ModuleNotFoundError: No module named 'a_vendor_sdk'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("def (", "SyntaxError"),
        (
            "from tvmopt_plugins.fuse import Fuse\n"
            "class Mine(Fuse): pass\n"
            "@hookimpl\ndef tvmopt_register_passes(): return [Mine]",
            "the name 'fuse' is used by both tvmopt_plugins.fuse.Fuse and broken_plugin.Mine",
        ),
    ],
)
def test_a_broken_one_is_listed_and_stops_no_other_command(
    body: str, reason: str, installed: Path, tmp_path: Path
):
    (tmp_path / "broken_plugin.py").write_text(BROKEN.format(body=body))
    info = tmp_path / "broken_plugin-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[tvmopt]\nbroken = broken_plugin\n")
    both = Path(f"{tmp_path}{os.pathsep}{installed}")
    listed = tvmopt(both, "plugins").stdout
    assert f"broken  (broken-plugin 0.1, broken_plugin)\n  NOT LOADED: {reason}" in listed
    assert "example-sse" in tvmopt(both, "targets").stdout
