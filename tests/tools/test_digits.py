"""The model that ships with the project is what its record says."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

DIGITS = Path(__file__).parents[2] / "tools/digits"
RECORD = json.loads((DIGITS / "digits.json").read_text())


def test_recorded_accuracy_is_the_models():
    evaluator = ReferenceEvaluator(str(DIGITS / "digits.onnx"))
    data = np.load(DIGITS / "digits_test.npz")
    # A tenth of the images: the reference evaluator takes its time.
    images, labels = data["image"][::10], data["label"][::10]
    right = sum(
        int(evaluator.run(None, {"image": image[None]})[0].argmax() == label)
        for image, label in zip(images, labels, strict=True)
    )
    wrong_in_all = RECORD["test_images"] - RECORD["test_correct"]
    assert len(labels) - wrong_in_all <= right <= len(labels)
    assert len(data["label"]) == RECORD["test_images"]


def test_record_is_consistent_and_over_98_percent():
    assert RECORD["test_accuracy"] == RECORD["test_correct"] / RECORD["test_images"]
    assert RECORD["test_accuracy"] > 0.98


def test_files_are_small():
    assert sum(path.stat().st_size for path in DIGITS.iterdir()) < 300_000


def test_model_has_what_the_compiler_is_for():
    model = onnx.load(DIGITS / "digits.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert {"Conv", "BatchNormalization", "Relu", "Add", "ReduceMean", "Gemm"} <= operators
    groups = [a.i for n in model.graph.node for a in n.attribute if a.name == "group"]
    assert max(groups) > 1


def test_model_holds_no_path_of_the_machine_that_made_it():
    strings = re.findall(rb"[ -~]{6,}", (DIGITS / "digits.onnx").read_bytes())
    assert not [s for s in strings if b".py" in s or b"site-packages" in s]
