"""What loops cost on a machine, in cycles of one core: what schedules choose by and predict.

A core overlaps arithmetic, loads and what streams in from the caches, so that the slowest of them
decides. They still get into each other's way where they take nearly the same: the time is a norm of
the parts, between their maximum and their sum. Measured on a Zen 5 core, for registers tiles of
(rows x vectors) with 512 bits: 14 x 2 14.2 cycles a step, 28 x 1 15.2, 12 x 1 6.6, 8 x 1 4.7,
4 x 2 4.5, and 2 x 8 from the level-2 cache 10.9; the model is within 6 %.
"""

from tvmopt_schedules.cpu.machine import Machine

CALL_CYCLES = 2000.0
"""One call of a kernel by TVM's virtual machine and its checks of arguments, about 0.5 us."""

TILE_CYCLES = 30.0
"""Around the reduction of one register tile: addresses, the first step, the pipeline's end."""

_STEP_CYCLES = 0.1  # the loop's own instructions
_NORM = 10
_VECTOR_ELEMENT_BYTES = 4


def together(*parts: float) -> float:
    """Cycles of parts that a core works on at the same time."""
    longest = max(parts)
    if longest <= 0:
        return 0.0
    return longest * sum((part / longest) ** _NORM for part in parts) ** (1 / _NORM)


def step_cycles(machine: Machine, rows: int, vectors: int, rate: float) -> float:
    """One step of a reduction into a register tile of `rows` x `vectors` accumulators.

    A step multiplies one scalar of each row with each vector. It is the same for instructions that
    add several products to a lane (bfloat16, int8), whose scalars are that many elements: there are
    fewer steps.

    Args:
        machine: the core.
        rows: results that share the vectors.
        vectors: operands in vectors, each used by all rows.
        rate: bytes in a cycle that the vectors come with, see `rate_of`; infinite where they stay
            in the level-1 cache.
    """
    return (
        together(
            rows * vectors / machine.fmas_per_cycle,
            (rows + vectors) / machine.loads_per_cycle,
            machine.fma_latency,
            vectors * vector_bytes(machine) / rate,
        )
        + _STEP_CYCLES
    )


def tile_cycles(machine: Machine, rows: int, vectors: int, steps: int, rate: float) -> float:
    """The whole reduction of a register tile, in `steps` steps."""
    return steps * step_cycles(machine, rows, vectors, rate) + TILE_CYCLES


def holds(machine: Machine, rows: int, vectors: int) -> bool:
    """Whether the registers hold a tile's accumulators and its operands.

    A scalar in a register that one multiply-add alone uses becomes its destination: with one
    vector, sums wander from register to register, and from 10 rows on LLVM keeps some of them on
    the stack of an AVX2 core. 192 channels on 28 x 28 pixels, from 192, take 0.97 ms with 14 x 1
    and 0.60 ms with 6 x 2.
    """
    if vectors == 1 and machine.adds_in_place and not machine.broadcasts_from_memory:
        return 2 * rows <= machine.registers
    others = vectors * machine.weight_registers + machine.other_registers
    return rows * vectors + others <= machine.registers


def preference(rows: int, vectors: int, *, rests: int) -> float:
    """A factor that decides between tiles whose times the model cannot tell apart.

    Few loads for the arithmetic come first, and tiles without a rest, whose code comes on top.
    """
    return 1 + 0.03 * (rows + vectors) / (rows * vectors) + 0.005 * rests


def rate_of(machine: Machine, size_bytes: float) -> float:
    """Bytes in a cycle of what is read over and over, `size_bytes` in all."""
    if size_bytes <= machine.l1_bytes * 3 // 4:
        return float("inf")
    if size_bytes <= machine.l2_bytes * 3 // 4:
        return machine.l2_bytes_per_cycle
    if size_bytes <= machine.l3_bytes * 3 // 4:
        return machine.l3_bytes_per_cycle
    return machine.memory_bytes_per_cycle


def stream_rate(machine: Machine, size_bytes: float) -> float:
    """Bytes in a cycle of an array of `size_bytes` that an earlier kernel wrote or read.

    What was larger than half of a cache has left it since.
    """
    if size_bytes <= machine.l2_bytes // 2:
        return machine.l2_bytes_per_cycle
    if size_bytes <= machine.l3_bytes // 2:
        return machine.l3_bytes_per_cycle
    return machine.memory_bytes_per_cycle


def once_cycles(machine: Machine, size_bytes: float) -> float:
    """One pass over an array that an earlier kernel of the model wrote or read."""
    return size_bytes / stream_rate(machine, size_bytes)


def exchange_cycles(machine: Machine, size_bytes: float) -> float:
    """What a core waits for an array that all cores wrote a part of, and that it reads whole.

    A line that another core wrote comes at a third of the level-3 cache's rate (33 GB/s, its own
    level-2 cache 117), and nothing hides it: the depthwise kernels of MobileNetV2 on 14 x 14 and
    7 x 7 pixels, 5 to 7 us on each of two cores, took 3 us longer.
    """
    part = (machine.cores - 1) / machine.cores
    return size_bytes * part / (machine.l3_bytes_per_cycle / 3)


def weights_cycles(machine: Machine, size_bytes: float) -> float:
    """One pass over weights, which all of a model's other weights have pushed out since."""
    rate = (
        machine.l3_bytes_per_cycle
        if size_bytes <= machine.l2_bytes
        else machine.memory_bytes_per_cycle
    )
    return size_bytes / rate


def pass_cycles(machine: Machine, size_bytes: float, operations: float = 0.0) -> float:
    """One pass over operands of `size_bytes`, with some float32 operations on them.

    Chains of operations on one vector after the other keep half of the units busy: softmax and
    layer norm on 128 x 768 did one operation a cycle.
    """
    arithmetic = operations / (machine.lanes * machine.fmas_per_cycle / 2)
    return together(once_cycles(machine, size_bytes), arithmetic) + CALL_CYCLES


def vector_bytes(machine: Machine) -> int:
    """Size of a vector register."""
    return machine.lanes * _VECTOR_ELEMENT_BYTES


def parts(extent: int, size: int) -> list[tuple[int, int]]:
    """The sizes that an extent is cut into, each with how often."""
    full, rest = divmod(extent, size)
    return [(s, many) for s, many in ((size, full), (rest, 1)) if s and many]
