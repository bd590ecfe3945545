"""ONNX models of one recurrent layer, with any of its options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from small_onnx import model, node, value

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Layer:
    """A layer with random weights.

    Attributes:
        cell: the ONNX operator.
        sizes: steps, batch, input size, hidden size.
        attributes: of the node, without `hidden_size`.
        optional: optional inputs that it has, of `B lengths h c P`.
        constant: inputs that are constants rather than inputs of the model.
        outputs: the outputs that it has.
        first_length: steps of the first sequence; None for a random number.
    """

    cell: str
    sizes: tuple[int, int, int, int] = (5, 3, 4, 7)
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    optional: str = "B"
    constant: str = "W R B P"
    outputs: str = "Y Y_h Y_c"
    first_length: int | None = None

    def make(self, opset: int = 20) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The model, and inputs for it."""
        steps, batch, depth, hidden = self.sizes
        rng = np.random.default_rng(0)
        directions = 2 if self.attributes.get("direction") == "bidirectional" else 1
        rows = GATES[self.cell] * hidden
        batch_first = bool(self.attributes.get("layout", 0))

        def draw(*shape: int) -> np.ndarray:
            return rng.uniform(-0.5, 0.5, shape).astype("float32")

        def ordered(shape: list[int], axes: list[int]) -> list[int]:
            return [shape[axis] for axis in axes] if batch_first else shape

        state = ordered([directions, batch, hidden], [1, 0, 2])
        arrays = {
            "X": 2 * draw(*ordered([steps, batch, depth], [1, 0, 2])),
            "W": draw(directions, rows, depth),
            "R": draw(directions, rows, hidden),
            "B": draw(directions, 2 * rows),
            "lengths": rng.integers(1, steps + 1, batch).astype("int32"),
            "h": draw(*state),
            "c": draw(*state),
            "P": draw(directions, 3 * hidden),
        }
        if self.first_length is not None:
            arrays["lengths"][0] = self.first_length
        order = [*arrays] if self.cell == "LSTM" else [*arrays][:6]
        names = [name if name in ("X", "W", "R", *self.optional.split()) else "" for name in order]
        fed = [name for name in names if name and name not in self.constant.split()]
        shapes = {
            "Y": ordered([steps, directions, batch, hidden], [2, 0, 1, 3]),
            "Y_h": state,
            "Y_c": state,
        }
        known = ["Y", "Y_h", "Y_c"] if self.cell == "LSTM" else ["Y", "Y_h"]
        outputs = [name if name in self.outputs.split() else "" for name in known]
        proto = model(
            [node(self.cell, names, outputs, name="rec", hidden_size=hidden, **self.attributes)],
            [value(name, arrays[name].shape, arrays[name].dtype.name) for name in fed],
            [value(name, shapes[name]) for name in outputs if name],
            {name: arrays[name] for name in names if name and name not in fed},
            opset=opset,
        )
        return proto, {name: arrays[name] for name in fed}
