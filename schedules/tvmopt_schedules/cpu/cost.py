"""What loops cost on a machine, in cycles of one core: what schedules choose by and predict.

A core overlaps arithmetic, loads and streams from the caches, so that the slowest of them decides.
"""

from tvmopt_schedules.cpu.machine import Machine

CALL_CYCLES = 500.0
"""One call of a kernel by TVM's virtual machine and its checks of arguments, about 0.15 us."""


def stream_rate(machine: Machine, size_bytes: float) -> float:
    """Bytes in a cycle of an array of `size_bytes` that was written or read before."""
    if size_bytes <= machine.l2_bytes // 2:
        return machine.l2_bytes_per_cycle
    if size_bytes <= machine.l3_bytes // 2:
        return machine.l3_bytes_per_cycle
    return machine.memory_bytes_per_cycle


def pass_cycles(machine: Machine, size_bytes: float, operations: float = 0.0) -> float:
    """Cycles of one pass over operands of `size_bytes`, with some float32 operations on them."""
    arithmetic = operations / (machine.lanes * machine.fmas_per_cycle)
    return max(size_bytes / stream_rate(machine, size_bytes), arithmetic) + CALL_CYCLES
