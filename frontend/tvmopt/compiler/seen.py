"""What calibrators saw of a module, kept for when the same module is quantized again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import relax

from tvmopt.calibration import Calibrator


@dataclass
class Seen:
    """Calibrators by the place of their variable: parameters and bindings are counted in order.

    Attributes:
        mod: the float module that ran.
        default: the name that the calibrators were made for.
    """

    mod: tvm.IRModule
    default: str
    calibrators: dict[int, Calibrator] = field(default_factory=dict[int, Calibrator])
    given_up: dict[int, str] = field(default_factory=dict[int, str])

    def is_of(self, mod: tvm.IRModule, default: str) -> bool:
        """Whether this is what would be seen: the modules are equal to their constants."""
        return default == self.default and tvm_ffi.structural_equal(self.mod, mod)

    def add(
        self,
        mod: tvm.IRModule,
        calibrators: Mapping[relax.Var, Calibrator],
        given_up: Mapping[relax.Var, str],
    ) -> None:
        """Takes in what variables of an equal module showed."""
        places = places_of(mod)
        self.calibrators.update({places[var]: one for var, one in calibrators.items()})
        self.given_up.update({places[var]: why for var, why in given_up.items()})

    def missing(self, mod: tvm.IRModule, variables: Sequence[relax.Var]) -> list[relax.Var]:
        """The variables of an equal module that have not been seen."""
        places = places_of(mod)
        return [var for var in variables if places[var] not in self.calibrators]

    def of(
        self, mod: tvm.IRModule, variables: Sequence[relax.Var]
    ) -> tuple[dict[relax.Var, Calibrator], dict[relax.Var, str]]:
        """Calibrators of variables of an equal module, and why some were given up."""
        places = {var: place for var, place in places_of(mod).items() if var in set(variables)}
        given_up = {var: self.given_up[at] for var, at in places.items() if at in self.given_up}
        return {var: self.calibrators[places[var]] for var in variables}, given_up


def places_of(mod: tvm.IRModule) -> dict[relax.Var, int]:
    """The parameters and bound variables of `main`, numbered."""
    func = mod["main"]
    bound = [binding.var for block in func.body.blocks for binding in block.bindings]
    return {var: place for place, var in enumerate([*func.params, *bound])}
