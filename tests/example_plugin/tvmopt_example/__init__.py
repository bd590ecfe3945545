"""A third-party plugin: what it registers, and nothing that would import tvm."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tvmopt import (
    Backend,
    Capabilities,
    CompileContext,
    CompileRequest,
    Device,
    Pass,
    Report,
    Stage,
    hookimpl,
)

if TYPE_CHECKING:
    import click
    import tvm
    from tvm.s_tir.dlight import ScheduleRule


@dataclass(frozen=True)
class DropRepeats(Pass):
    """Drops the second of two equal idempotent operators: `floor(floor(x)) = floor(x)`, exact."""

    name: ClassVar[str] = "example-drop-repeats"
    stage: ClassVar[Stage] = Stage.CANONICALIZE

    operator: str = "floor"

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_example.drop_repeats import drop_repeats

        return drop_repeats(mod, self, ctx)


class Sse(Backend):
    """x86-64 CPUs with 128-bit vectors, by the schedules that tvmopt has for every CPU."""

    name: ClassVar[str] = "example-sse"
    description: ClassVar[str] = "x86-64 CPUs with SSE4.2"
    devices: ClassVar[Sequence[Device]] = (
        Device("example-dual", "two of its cores", {"num-cores": "2"}),
    )
    option_names: ClassVar[Mapping[str, str]] = {"num-cores": "cores that kernels may spread over"}

    @property
    def capabilities(self) -> Capabilities:
        cores = int(self.options.get("num-cores", "1"))
        return Capabilities(
            lanes=4,
            registers=16,
            cores=cores,
            l1_bytes=32 << 10,
            l2_bytes=256 << 10,
            features=frozenset(self.isa()),
        )

    def target(self) -> "tvm.target.Target":
        import tvm

        return tvm.target.Target(
            {
                "kind": "llvm",
                "mtriple": "x86_64-unknown-linux-gnu",
                "mcpu": "x86-64-v2",
                "num-cores": self.capabilities.cores,
            }
        )

    def legalizations(self) -> Mapping[str, Any]:
        from tvmopt_schedules.cpu.legalize import legalizations

        return legalizations()

    def schedule_rules(self) -> "Sequence[ScheduleRule]":
        from tvmopt_schedules.x86.rules import rules

        return rules(self._machine())

    def isa(self) -> Sequence[str]:
        return ("sse4.2",)

    def _machine(self) -> Any:
        from tvmopt_schedules.cpu.machine import Machine

        return Machine.of(self.capabilities)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [DropRepeats]


@hookimpl
def tvmopt_register_backends() -> list[type[Backend]]:
    return [Sse]


@hookimpl
def tvmopt_register_commands(cli: "click.Group") -> None:
    from tvmopt_example.command import schedules

    cli.add_command(schedules)


@hookimpl
def tvmopt_modify_passes(passes: list[Pass], request: CompileRequest) -> None:
    """Wanted for its own backend only: no other target may compile differently."""
    if request.backend.name == Sse.name and not any(p.name == DropRepeats.name for p in passes):
        passes.insert(0, DropRepeats())


@hookimpl
def tvmopt_compile_finished(request: CompileRequest, report: Report) -> None:
    log = os.environ.get("TVMOPT_EXAMPLE_LOG")
    if log:
        line = {"model": request.source.path.name, "passes": [p.name for p in report.passes]}
        Path(log).write_text(json.dumps(line), encoding="utf-8")
