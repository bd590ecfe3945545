"""Writes real architectures with random weights to ONNX files, to measure and test with.

    python tools/make_models.py --output DIR [NAME ...]
    python tools/make_models.py --output DIR8 --batch 8
    python tools/make_models.py --output DIR --trained

The weights are seeded and scaled so that activations stay finite; batch norms get gains, biases and
statistics that are not trivial. The number of parameters is checked against the published one. All
shapes are fixed, as exporters write the batch size into reshapes; the weights do not depend on it.

With `--trained` it writes other networks, small ones that are trained here, in about five minutes,
on scikit-learn's digits and on lines of Python's standard library: `NAME.onnx` with the samples it
was trained on, is to be calibrated with and is tested on (`NAME_train.npz`, `NAME_calibration.npz`,
`NAME_test.npz`), and `trained.json` with their accuracy. `quantization_accuracy.py` reads them.

`--trained minilm` writes a sentence encoder that others trained, with sentences of the library's
docstrings (`NAME_calibration.npz`, `NAME_test.npz`, no labels), where its package is installed:
`trained/minilm.py` says which.

Needs torch and onnxscript, for `--trained` also scikit-learn (`pip install 'tvmopt[train]'`).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from models import (
    bert,
    convnext,
    crnn,
    efficientnet,
    gpt2,
    lstm,
    mobilenet,
    resnet,
    unet,
    vgg,
    vit,
    yolo,
)
from models.export import write_onnx
from torch import Tensor, nn
from trained import minilm, recipes

SEED = 0


@dataclass(frozen=True)
class Architecture:
    """A network, its inputs, and how many parameters its reference implementation has.

    Attributes:
        build: makes the network.
        inputs: shapes by input name.
        vocabulary: integer inputs count up to this; 0 for images.
        parameters: the published number, counted with batch norm's gains and biases.
    """

    build: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    parameters: int
    vocabulary: int = 0


def _image(size: int) -> dict[str, tuple[int, ...]]:
    return {"image": (1, 3, size, size)}


TEXT = {"input_ids": (1, 128), "attention_mask": (1, 128)}
GPT2_LAYER = 7_087_872  # 124 439 808 in all; the other 8 layers are left out

ARCHITECTURES = {
    "resnet18": Architecture(resnet.resnet18, _image(224), 11_689_512),
    "resnet50": Architecture(resnet.resnet50, _image(224), 25_557_032),
    "mobilenet_v2": Architecture(mobilenet.mobilenet_v2, _image(224), 3_504_872),
    "bert_base": Architecture(bert.bert_base, TEXT, 109_482_240, bert.VOCABULARY),
    "vit_tiny": Architecture(vit.vit_tiny, _image(224), 5_717_416),
    "distilbert": Architecture(bert.distilbert, TEXT, 66_362_880, bert.VOCABULARY),
    "mobilenet_v3_small": Architecture(mobilenet.mobilenet_v3_small, _image(224), 2_542_856),
    "efficientnet_b0": Architecture(efficientnet.efficientnet_b0, _image(224), 5_288_548),
    "convnext_tiny": Architecture(convnext.convnext_tiny, _image(224), 28_589_128),
    "unet": Architecture(unet.unet, _image(256), 7_763_041),
    "yolov8n": Architecture(yolo.yolov8n, _image(320), 3_157_200),
    "gpt2_4layers": Architecture(
        gpt2.gpt2_4layers, {"input_ids": (1, 128)}, 124_439_808 - 8 * GPT2_LAYER, gpt2.VOCABULARY
    ),
    "vgg11_bn": Architecture(vgg.vgg11_bn, _image(224), 132_868_840),
    "lstm_medium": Architecture(
        lstm.lstm_medium, {"input_ids": (1, 64)}, 19_780_400, lstm.VOCABULARY
    ),
    "crnn": Architecture(crnn.crnn, {"image": (1, 1, 32, 100)}, 8_331_301),
}

TRAINED = (*recipes.RECIPES, recipes.PUBLISHED)


def main() -> None:
    """Writes the models that the command line names, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ARCHITECTURES))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="by default 1")
    parser.add_argument("--trained", action="store_true", help=", ".join(TRAINED))
    given = parser.parse_args()
    known = TRAINED if given.trained else tuple(ARCHITECTURES)
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no model is called '{unknown[0]}'; there is {', '.join(known)}")
    if given.trained and given.batch != 1:
        parser.error("trained models are for one sample; leave --batch out")
    missing = minilm.missing_package()
    if recipes.PUBLISHED in given.names and missing:
        parser.error(f"{recipes.PUBLISHED} needs the package '{missing}': see trained/minilm.py")
    given.output.mkdir(parents=True, exist_ok=True)
    if given.trained:
        default = list(recipes.RECIPES) if missing else list(TRAINED)
        recipes.write(given.names or default, given.output)
        return
    for name in given.names or ARCHITECTURES:
        start = time.perf_counter()
        path = given.output / f"{name}.onnx"
        write(ARCHITECTURES[name], path, given.batch)
        size_mb = path.stat().st_size / 1e6
        print(f"{path}  {size_mb:.1f} MB  {time.perf_counter() - start:.0f} s", flush=True)


def write(architecture: Architecture, path: Path, batch: int) -> None:
    """Builds one network with seeded weights and exports it, under a temporary name first.

    The weights do not depend on `batch`.
    """
    torch.manual_seed(SEED)
    network = architecture.build()
    count = sum(parameter.numel() for parameter in network.parameters())
    if count != architecture.parameters:
        raise AssertionError(f"{path.stem}: {count} parameters, not {architecture.parameters}")
    randomize(network)
    calibrate(network, architecture)
    network.eval()
    inputs = sample_inputs(architecture, batch)
    with torch.no_grad():
        results = network(*inputs)
    outputs = results if isinstance(results, tuple) else (results,)
    if not all(torch.isfinite(output).all() for output in outputs):
        raise AssertionError(f"{path.stem}: the outputs are not finite")
    names = ["output", "pooled"][: len(outputs)]
    write_onnx(network, inputs, list(architecture.inputs), names, path)


def randomize(network: nn.Module) -> None:
    """Draws weights: He for convolutions, the transformers' 0.02 for embeddings and their linears.

    What is not in a transformer, recurrent layers and their embeddings too, keeps torch's own
    initialization.
    """
    transformer = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Embedding) and transformer:
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear) and transformer:
            nn.init.normal_(module.weight, std=0.04)
            nn.init.normal_(module.bias, std=0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)


def calibrate(network: nn.Module, architecture: Architecture) -> None:
    """Sets the batch norms' means and variances from what flows through them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(*sample_inputs(architecture, batch=4))


def sample_inputs(architecture: Architecture, batch: int) -> tuple[Tensor, ...]:
    """Normal images, or ids and a mask of ones."""
    tensors: list[Tensor] = []
    for name, (_, *rest) in architecture.inputs.items():
        if name == "attention_mask":
            tensors.append(torch.ones(batch, *rest, dtype=torch.int64))
        elif architecture.vocabulary:
            tensors.append(torch.randint(architecture.vocabulary, (batch, *rest)))
        else:
            tensors.append(torch.randn(batch, *rest))
    return tuple(tensors)


if __name__ == "__main__":
    main()
