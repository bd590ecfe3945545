"""Trains the small CNN that ships with the project, and writes it with its held-out test images.

    python tools/make_digits.py

Writes into `tools/digits/`: `digits.onnx`, `digits_test.npz` (images and labels that the training
did not see) and `digits.json` (what came out, and with what it was made). The data are
scikit-learn's 1797 handwritten digits of 8x8 pixels. Needs torch, onnxscript and scikit-learn
(`pip install 'tvmopt[train]'`).
"""

import ast
import json
import platform
from pathlib import Path

import numpy as np
import onnx
import sklearn
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

OUTPUT = Path(__file__).parent / "digits"
SEED = 0
EPOCHS = 60
BATCH = 64
OPSET = 20
REQUIRED_ACCURACY = 0.98


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`relu(x + F(x))`."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(out)))


class Digits(nn.Module):
    """A stem, a residual, a strided depthwise-separable pair, a residual, global pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.residual1 = Residual(16)
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.residual2 = Residual(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 1, 8, 8]`, pixels from 0 to 1, to logits `[N, 10]`."""
        x = self.residual1(self.stem(image))
        x = self.residual2(self.pointwise(self.depthwise(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


def main() -> None:
    """Trains, tests, exports."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order, so that a second run gives the same weights
    torch.use_deterministic_algorithms(mode=True)
    train_images, test_images, train_labels, test_labels = split()
    model = Digits()
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
    model.eval()
    with torch.no_grad():
        predicted = model(torch.from_numpy(test_images)).argmax(1).numpy()
    correct = int((predicted == test_labels).sum())
    if correct < REQUIRED_ACCURACY * len(test_labels):
        raise AssertionError(f"only {correct} of {len(test_labels)} test images are right")

    OUTPUT.mkdir(exist_ok=True)
    export(model, OUTPUT / "digits.onnx")
    np.savez_compressed(OUTPUT / "digits_test.npz", image=test_images, label=test_labels)
    record = {
        "test_images": len(test_labels),
        "test_correct": correct,
        "test_accuracy": correct / len(test_labels),
        "train_images": len(train_labels),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": SEED,
        "epochs": EPOCHS,
        "torch": torch.__version__.split("+")[0],
        "scikit_learn": sklearn.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps(record, indent=2) + "\n"
    (OUTPUT / "digits.json").write_text(text, encoding="utf-8")
    print(text, end="")


def split() -> tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]
]:
    """Four fifths to train on and one to test on: images `[N, 1, 8, 8]` from 0 to 1, and labels."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=SEED)


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Adam with one cycle of the learning rate; images are shifted by up to one pixel."""
    adam = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=1e-2, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            adam.zero_grad()
            nn.functional.cross_entropy(model(shifted(images[chosen])), labels[chosen]).backward()
            adam.step()
            schedule.step()


def shifted(images: Tensor) -> Tensor:
    """The batch, moved by up to one pixel each way."""
    down, right = torch.randint(3, (2,)).tolist()
    return nn.functional.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def export(model: nn.Module, path: Path) -> None:
    """Writes the model for one image; its batch norms stay in the file, for tvmopt to fold."""
    program = torch.onnx.export(
        model,
        (torch.zeros(1, 1, 8, 8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        optimize=False,  # it would fold the batch norms
        verbose=False,
    )
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    taken: set[str] = set()
    for node in proto.graph.node:
        node.name = readable_name(node, taken)
        del node.metadata_props[:]  # stack traces, with the paths of the machine
    for described in (proto, proto.graph, *proto.graph.value_info):
        del described.metadata_props[:]
    for described in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del described.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def readable_name(node: onnx.NodeProto, taken: set[str]) -> str:
    """The module that a node comes from, such as `residual1.conv1`, where that is unambiguous."""
    props = {prop.key: prop.value for prop in node.metadata_props}
    scopes = ast.literal_eval(props.get("pkg.torch.onnx.name_scopes", "['']"))
    module = scopes[-2] if len(scopes) > 1 else ""
    name = module if node.op_type in ("Conv", "BatchNormalization", "Gemm") else ""
    if not name or name in taken:
        name = node.name.removeprefix("node_").lower()
    taken.add(name)
    return name


if __name__ == "__main__":
    main()
