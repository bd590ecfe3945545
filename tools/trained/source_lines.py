"""Lines of Python's standard library, each sample from one of its modules.

A sample is a run of whole lines, cut into pieces of words, digits and signs, and padded. The task
is to tell the module. The runs do not overlap and none occurs twice, so that none is in two uses.
"""

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trained.dataset import Dataset, Samples

MODULES = (
    "argparse", "ast", "asyncio", "collections", "configparser", "ctypes", "difflib", "doctest",
    "email", "enum", "html", "http", "importlib", "inspect", "ipaddress", "json", "logging",
    "mailbox", "multiprocessing", "optparse", "pathlib", "pdb", "pickle", "pydoc", "re", "shutil",
    "statistics", "subprocess", "tarfile", "threading", "typing", "unittest", "urllib", "xml",
    "zipfile",
)  # fmt: skip
LENGTH = 32  # pieces of a sample, with padding
LEAST_LENGTH = 10  # of a sample without padding
VOCABULARY = 4096
PADDING, UNKNOWN = 0, 1
MOST_OF_A_MODULE = 900  # samples
TEST_PART = 5  # one sample of so many is for the test
CALIBRATION_SAMPLES = 200
PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d|[^\sA-Za-z\d]")


def load(seed: int) -> Dataset:
    """`input_ids` and `attention_mask`, int64 `[N, 32]`; labels count `MODULES`."""
    order = np.random.default_rng(seed)
    runs: list[tuple[tuple[str, ...], int]] = []
    for label, module in enumerate(MODULES):
        found = sorted(set(runs_of(module, order)))
        chosen = order.permutation(len(found))[:MOST_OF_A_MODULE]
        runs += [(found[index], label) for index in chosen]
    counts = Counter(run for run, _ in runs)
    runs = [(run, label) for run, label in runs if counts[run] == 1]
    runs = [runs[index] for index in order.permutation(len(runs))]
    tested = len(runs) // TEST_PART
    words = vocabulary_of(run for run, _ in runs[tested:])
    test, train = (encoded(part, words) for part in (runs[:tested], runs[tested:]))
    return Dataset(train, train.taken(slice(CALIBRATION_SAMPLES)), unseen(test, train), MODULES)


def unseen(test: Samples, train: Samples) -> Samples:
    """The test without what only its unknown pieces told from a training sample."""
    known = {row.tobytes() for row in train.inputs["input_ids"]}
    rows = test.inputs["input_ids"]
    kept = [index for index, row in enumerate(rows) if row.tobytes() not in known]
    return test.taken(np.array(kept))


def runs_of(module: str, order: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """The module cut into runs of lines, each of a random length up to `LENGTH` pieces."""
    for path in sources_of(module):
        run: list[str] = []
        most = order.integers(LEAST_LENGTH, LENGTH, endpoint=True)
        for line in path.read_text(encoding="utf-8").splitlines():
            pieces = PIECE.findall(line)
            if len(run) + len(pieces) > most:
                if len(run) >= LEAST_LENGTH:
                    yield tuple(run)
                run, most = [], order.integers(LEAST_LENGTH, LENGTH, endpoint=True)
            run += pieces[: int(most)]


def sources_of(module: str) -> list[Path]:
    """The files of a module or package, without its tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted((library / module).rglob("*.py")) or [library / f"{module}.py"]
    return [path for path in files if "test" not in path.parts and "tests" not in path.parts]


def vocabulary_of(runs: Iterator[tuple[str, ...]]) -> dict[str, int]:
    """Numbers of the most frequent pieces."""
    counts = Counter(piece for run in runs for piece in run)
    frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return {piece: 2 + rank for rank, piece in enumerate(frequent[: VOCABULARY - 2])}


def encoded(runs: list[tuple[tuple[str, ...], int]], words: dict[str, int]) -> Samples:
    """Ids and masks, padded to `LENGTH`."""
    ids = np.full((len(runs), LENGTH), PADDING, dtype=np.int64)
    for row, (run, _) in zip(ids, runs, strict=True):
        row[: len(run)] = [words.get(piece, UNKNOWN) for piece in run]
    mask = (ids != PADDING).astype(np.int64)
    labels = np.array([label for _, label in runs], dtype=np.int64)
    return Samples({"input_ids": ids, "attention_mask": mask}, labels)
