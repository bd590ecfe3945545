"""Counts the test digits that a compiled package reads right: `score_digits.py PACKAGE`.

The trained model's own count stands in `digits/digits.json`.
"""

import json
import sys
from pathlib import Path

import numpy as np

import tvmopt

DIGITS = Path(__file__).parent / "digits"


def main() -> int:
    """Prints both counts; fails if the package's is more than one below the trained model's."""
    package = tvmopt.load(sys.argv[1])
    data = np.load(DIGITS / "digits_test.npz")
    record = json.loads((DIGITS / "digits.json").read_text(encoding="utf-8"))
    right = 0
    for image, label in zip(data["image"], data["label"], strict=True):
        (logits,) = package.run({"image": image[None]}).values()
        right += int(logits.argmax() == label)
    total = len(data["label"])
    print(f"{right} of {total} test images are right ({right / total:.2%})")
    print(f"{record['test_correct']} of {record['test_images']} were right in torch after training")
    return 0 if right >= record["test_correct"] - 1 else 1


if __name__ == "__main__":
    sys.exit(main())
