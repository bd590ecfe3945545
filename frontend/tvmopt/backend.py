"""What a hardware backend is: a target, its capabilities, and schedules for its kernels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tvmopt.errors import unknown_name
from tvmopt.passes import DEFAULT_PASSES

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir.dlight import ScheduleRule

    from tvmopt.quantization import QuantizationScheme


@dataclass(frozen=True)
class Capabilities:
    """What passes need to know of the hardware, as data; rates are those of one core.

    Attributes:
        lanes: float32 lanes of one vector register; blocked layouts have blocks of that many
            channels.
        registers: vector registers that a kernel may hold values in.
        cores: cores that a kernel may spread over.
        l1_bytes: size of the level-1 data cache in bytes.
        l2_bytes: size of the level-2 cache in bytes.
        features: instruction-set features in LLVM's names, such as `avx2` or `avx512vnni`.
        l3_bytes: size of the level-3 cache in bytes, shared by the cores; 0 where there is none.
        fmas_per_cycle: float32 vector multiply-adds that begin in a cycle.
        fma_latency: cycles until the result of a multiply-add can be added to.
        loads_per_cycle: whole vectors read from the level-1 cache in a cycle.
        l2_bytes_per_cycle: bytes that a stream from the level-2 cache brings in a cycle.
        l3_bytes_per_cycle: the same of the level-3 cache.
        memory_bytes_per_cycle: the same of memory.
    """

    lanes: int
    registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    features: frozenset[str] = frozenset()
    l3_bytes: int = 0
    fmas_per_cycle: float = 2.0
    fma_latency: float = 4.0
    loads_per_cycle: float = 2.0
    l2_bytes_per_cycle: float = 32.0
    l3_bytes_per_cycle: float = 16.0
    memory_bytes_per_cycle: float = 5.0

    @property
    def flops_per_cycle(self) -> float:
        """Float32 operations that one core begins in a cycle at most."""
        return 2 * self.lanes * self.fmas_per_cycle


@dataclass(frozen=True)
class Device:
    """A name that `--target` accepts for a backend, with the options it stands for."""

    name: str
    description: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])


class Backend(ABC):
    """Hardware that models are compiled for. Must be importable without tvm.

    An instance is one configured target: `x86-avx2,num-cores=2` makes the backend `x86` with the
    options of its device `x86-avx2` and then the ones that are written out.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    devices: ClassVar[Sequence[Device]] = ()
    option_names: ClassVar[Mapping[str, str]] = {}
    """Options that `--target NAME,key=value` takes, with a sentence on each."""

    def __init__(self, device: str | None = None, options: Mapping[str, str] | None = None) -> None:
        """Configures the backend.

        Args:
            device: one of `devices`; None for the backend's own default.
            options: overrides, by the names in `option_names`.

        Raises:
            UsageError: an option that this backend does not have.
        """
        self.device = device or self.name
        given = dict(options or {})
        for key in given:
            if key not in self.option_names:
                raise unknown_name(f"option of target '{self.device}'", key, self.option_names)
        known = {d.name: d for d in self.devices}
        preset = known[self.device].options if self.device in known else {}
        self.options: dict[str, str] = {**preset, **given}

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the configured hardware can do."""

    @abstractmethod
    def target(self) -> "tvm.target.Target":
        """The TVM target that kernels are built for."""

    def passes(self) -> Sequence[str]:
        """Names of the passes that a compilation for this backend runs, in order."""
        return DEFAULT_PASSES

    def legalizations(self) -> Mapping[str, Any]:
        """Legalizations `(BlockBuilder, Call) -> Expr` by Relax operator, before TVM's own."""
        return {}

    @abstractmethod
    def schedule_rules(self) -> Sequence["ScheduleRule"]:
        """Rules that give kernels their loops; the first that returns a schedule wins.

        The last one should take anything, so that no kernel runs unscheduled. A rule's class
        attribute `fallback`, where it is true, has the report name the kernels it took.
        """

    def quantization(self) -> "QuantizationScheme | None":
        """What the hardware's integer arithmetic wants; None where it has none to gain from."""
        return None

    def isa(self) -> Sequence[str]:
        """CPU features that a machine must have to run the package, in LLVM's names."""
        return ()

    def __repr__(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{type(self).__name__}({self.device}{',' if given else ''}{given})"
