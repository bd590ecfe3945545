"""How Relax operators become PrimFuncs on CPUs, where TVM's own legalization is not good enough."""

from collections.abc import Callable, Mapping

from tvm import relax

from tvmopt_schedules.cpu.machine import Machine

LegalizeFunc = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizations(machine: Machine) -> Mapping[str, LegalizeFunc]:
    """Legalizations by Relax operator name; operators that are not named take TVM's."""
    return {}
