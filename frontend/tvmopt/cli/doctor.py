"""`tvmopt doctor`: is everything here that tvmopt needs, and what would more bring."""

import importlib
import platform
from dataclasses import asdict, dataclass
from typing import Literal

import click

from tvmopt.cli.console import print_fields, print_json
from tvmopt.cli.options import json_option, verbose_option
from tvmopt.cli.session import Session
from tvmopt.cli.versions import installed_version, requirements, satisfies
from tvmopt.errors import MissingPackageError

Status = Literal["ok", "missing", "wrong version", "optional"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for. `optional` means: not there, and not needed for the basics."""

    name: str
    status: Status
    found: str
    purpose: str
    remedy: str = ""


_REASONS = {
    "apache-tvm": "the compiler and the runtime",
    "apache-tvm-ffi": "TVM's binding; 0.1.15 crashes MetaSchedule of TVM 0.27",
    "onnx": "reads models",
    "numpy": "tensors",
    "click": "the command line",
    "pluggy": "plugins",
    "pyyaml": "recipes",
    "rich": "tables and progress",
}

_PACKAGES = (
    ("onnxruntime", "fast verification and `benchmark --against`", "pip install 'tvmopt[peers]'"),
    ("openvino", "`benchmark --against`", "pip install 'tvmopt[peers]'"),
    ("ziglang", "links where no C compiler is installed", "pip install ziglang"),
)


@click.command(short_help="Checks what is installed and what this machine can do.")
@json_option
@verbose_option
@click.pass_obj
def doctor(session: Session, *, as_json: bool) -> int:
    """Checks versions, CPU features and optional packages; says what to install.

    Exits with 5 when something is missing that every compilation needs.
    """
    runtime = _runtime()
    required = [*_required(), runtime, _linker()]
    system = [*_system(), *(_threads() if runtime.status == "ok" else [])]
    optional = _packages()
    backends = _backends(session)
    bad = session.plugins.bad
    if as_json:
        print_json(
            {
                "system": dict(system),
                "required": [asdict(f) for f in required],
                "optional": [asdict(f) for f in optional],
                "backends": dict(backends),
                "bad_plugins": {info.name: info.error for info in bad},
            }
        )
    else:
        print_fields(system)
        _show("required", required)
        _show("optional", optional)
        click.echo("\nbackends, as configured by default")
        print_fields((f"  {name}", text) for name, text in backends)
        for info in bad:
            click.echo(f"  plugin '{info.name}' is not loaded: {info.error}")
    broken = [f for f in required if f.status != "ok"]
    if not broken and not as_json:
        click.echo("\neverything that tvmopt needs is here")
    for finding in broken:
        click.echo(f"problem: {finding.name} is {finding.status}; {finding.remedy}", err=True)
    return MissingPackageError.exit_code if broken else 0


def _system() -> list[tuple[str, str]]:
    return [
        ("tvmopt", installed_version("tvmopt") or "not installed"),
        ("python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cpu", _cpu_name()),
    ]


def _threads() -> list[tuple[str, str]]:
    """The cores that kernels are spread over, and what each spreading costs."""
    from tvmopt.compiler.launch import region_us
    from tvmopt.compiler.threads import default_threads

    threads = default_threads()
    if threads == 1:
        return [("threads", "1")]
    return [("threads", f"{threads}; a parallel region takes {region_us(threads):.1f} us")]


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - procfs
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _required() -> list[Finding]:
    findings: list[Finding] = []
    for name, wanted in requirements("tvmopt"):
        found = installed_version(name)
        status: Status = "missing" if found is None else "ok"
        if found is not None and not satisfies(found, wanted):
            status = "wrong version"
        remedy = "" if status == "ok" else f"pip install '{name}{wanted}'"
        text = f"{found or '-'} (wanted {wanted or 'any'})"
        findings.append(Finding(name, status, text, _REASONS.get(name, ""), remedy))
    return findings


def _runtime() -> Finding:
    """Whether TVM can be imported: a library that it needs may be missing."""
    purpose = "TVM and its code generators"
    try:
        importlib.import_module("tvmopt.compiler")  # keeps torch out
        from tvm.target import codegen

        found = f"loads, with LLVM {codegen.llvm_version_major()}"
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way
        remedy = f"install it anew: pip install --force-reinstall apache-tvm ({error})"
        return Finding("tvm", "missing", "does not load", purpose, remedy)
    return Finding("tvm", "ok", found, purpose)


def _linker() -> Finding:
    purpose = "links compiled models"
    try:
        from tvmopt.compiler.linking import find_linker

        return Finding("linker", "ok", " ".join(find_linker()), purpose)
    except MissingPackageError as error:
        return Finding("linker", "missing", "-", purpose, error.hint or str(error))
    except ImportError:
        return Finding("linker", "missing", "not looked for, since TVM does not load", purpose)


def _packages() -> list[Finding]:
    findings: list[Finding] = []
    for name, purpose, remedy in _PACKAGES:
        found = installed_version(name) or installed_version(f"{name}-cpu")
        status: Status = "ok" if found else "optional"
        findings.append(Finding(name, status, found or "-", purpose, "" if found else remedy))
    return findings


def _backends(session: Session) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name in session.plugins.backends:
        try:
            has = session.plugins.backend(name).capabilities
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            rows.append((name, f"not usable here: {error}"))
            continue
        features = ", ".join(sorted(has.features)) or "none"
        text = f"{has.cores} cores, {has.lanes} float32 lanes, {has.registers} vector registers"
        caches = f"L1 {has.l1_bytes >> 10} KiB, L2 {has.l2_bytes >> 10} KiB"
        rows.append((name, f"{text}, {caches}; features: {features}"))
    return rows


def _show(title: str, findings: list[Finding]) -> None:
    click.echo(f"\n{title}")
    name_width = max(len(f.name) for f in findings)
    found_width = max(len(f.found) for f in findings)
    for f in findings:
        mark = {"ok": "ok", "optional": "--"}.get(f.status, f.status.upper())
        advice = f"; {f.remedy}" if f.remedy else ""
        columns = f"{mark:<2}  {f.name:<{name_width}}  {f.found:<{found_width}}"
        click.echo(f"  {columns}  {f.purpose}{advice}")
