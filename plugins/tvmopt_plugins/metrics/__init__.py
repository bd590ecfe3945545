"""Metrics: what the outputs of a quantized model are judged by."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tvmopt import Metric, UsageError, hookimpl, option

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


@dataclass
class _OfClasses(Metric):
    """Of scores for classes.

    Attributes:
        axis: of the scores that counts classes.
        ignore: the label of what is not judged, such as padding.
    """

    axis: int = -1
    ignore: int = -100

    def update(self, output: "Array", reference: "Array") -> None:
        from tvmopt_plugins.metrics.scores import scores_of

        self.judge(*scores_of(output, reference, self.axis, self.ignore))

    def judge(self, scores: "Array", labels: "Array") -> None:
        """Takes in rows of scores `[N, classes]` with a label each."""
        raise NotImplementedError


@dataclass
class _Share(_OfClasses):
    unit: ClassVar[str] = "%"
    right: int = field(default=0, init=False)
    count: int = field(default=0, init=False)

    def value(self) -> float:
        return 100 * self.right / self.count if self.count else float("nan")


@dataclass
class Top1(_Share):
    """Per cent of the labels that have the highest score; of equal ones, the first counts."""

    name: ClassVar[str] = "top1"
    needs_labels: ClassVar[bool] = True
    best: ClassVar[int] = 1

    def judge(self, scores: "Array", labels: "Array") -> None:
        from tvmopt_plugins.metrics.scores import rank_of

        self.right += int((rank_of(scores, labels) < self.best).sum())
        self.count += len(labels)


@dataclass
class Top5(Top1):
    """Per cent of the labels that are among the five highest scores."""

    name: ClassVar[str] = "top5"
    best: ClassVar[int] = 5


@dataclass
class F1(_OfClasses):
    """Harmonic mean of precision and recall in per cent, averaged over the classes that occur.

    2 TP / (2 TP + FP + FN) for each class that is a label or a prediction (macro average).
    """

    name: ClassVar[str] = "f1"
    needs_labels: ClassVar[bool] = True
    unit: ClassVar[str] = "%"
    right: "Array | None" = field(default=None, init=False, repr=False)
    found: "Array | None" = field(default=None, init=False, repr=False)
    """Labels and predictions, counted by class."""

    def judge(self, scores: "Array", labels: "Array") -> None:
        import numpy as np

        classes, chosen = scores.shape[1], scores.argmax(1)
        right = np.bincount(labels[chosen == labels], minlength=classes)
        found = np.bincount(labels, minlength=classes) + np.bincount(chosen, minlength=classes)
        self.right = right if self.right is None else self.right + right
        self.found = found if self.found is None else self.found + found

    def value(self) -> float:
        if self.right is None or self.found is None or not self.found.any():
            return float("nan")
        occurs = self.found > 0
        return float(100 * (2 * self.right[occurs] / self.found[occurs]).mean())


@dataclass
class Perplexity(_OfClasses):
    """`exp` of the mean negative log-likelihood of tokens, from logits `[..., tokens, vocabulary]`.

    Attributes:
        shift: whether the labels are the inputs, so that each is predicted one position before.
    """

    name: ClassVar[str] = "perplexity"
    needs_labels: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    shift: bool = False
    total: float = field(default=0.0, init=False)
    count: int = field(default=0, init=False)

    def update(self, output: "Array", reference: "Array") -> None:
        if self.shift:
            output, reference = output[..., :-1, :], reference[..., 1:]
        super().update(output, reference)

    def judge(self, scores: "Array", labels: "Array") -> None:
        from tvmopt_plugins.metrics.scores import negative_log_likelihood

        self.total += negative_log_likelihood(scores, labels)
        self.count += len(labels)

    def value(self) -> float:
        import math

        if not self.count:
            return math.nan
        mean = self.total / self.count
        return math.exp(mean) if mean < 700 else math.inf  # exp(710) is no float64


@dataclass
class Agreement(_Share):
    """Per cent of the rows whose highest score is the original's: top1 without labels."""

    name: ClassVar[str] = "agreement"
    perfect: ClassVar[float] = 100.0

    def update(self, output: "Array", reference: "Array") -> None:
        same = output.argmax(self.axis) == reference.argmax(self.axis)
        self.right += int(same.sum())
        self.count += same.size


@dataclass
class RankCorrelation(Metric):
    """Spearman's correlation of the cosine similarities of all pairs of embeddings.

    An embedding is a row of the output, or the mean of its tokens `[N, tokens, features]`.

    Attributes:
        samples: at most so many are compared with each other; they are kept.
    """

    name: ClassVar[str] = "rank-correlation"
    perfect: ClassVar[float] = 1.0
    samples: int = option(1000, minimum=3)
    ours: "list[Array]" = field(default_factory=list["Array"], init=False, repr=False)
    theirs: "list[Array]" = field(default_factory=list["Array"], init=False, repr=False)

    def update(self, output: "Array", reference: "Array") -> None:
        from tvmopt_plugins.metrics.embeddings import embeddings_of

        left = self.samples - len(self.ours)
        self.ours.extend(embeddings_of(output)[:left])
        self.theirs.extend(embeddings_of(reference)[:left])

    def value(self) -> float:
        from tvmopt_plugins.metrics.embeddings import rank_correlation

        return rank_correlation(self.ours, self.theirs)


@dataclass
class Mse(Metric):
    """Mean squared difference from the original; a share is of the original's mean square."""

    name: ClassVar[str] = "mse"
    higher_is_better: ClassVar[bool] = False
    perfect: ClassVar[float] = 0.0
    noise: float = field(default=0.0, init=False)
    signal: float = field(default=0.0, init=False)
    count: int = field(default=0, init=False)

    def update(self, output: "Array", reference: "Array") -> None:
        import numpy as np

        exact = reference.astype(np.float64)
        self.noise += float(((output - exact) ** 2).sum())
        self.signal += float((exact**2).sum())
        self.count += exact.size

    def value(self) -> float:
        return self.noise / self.count if self.count else float("nan")

    def drop(self, original: float, *, relative: bool) -> float:
        if not relative or not self.count:
            return super().drop(original, relative=False)
        if not self.signal:
            return float("inf") if self.noise else 0.0
        return self.noise / self.signal


@dataclass
class Sqnr(Mse):
    """Signal to noise of the output in dB; a drop is the noise's share: 1% is 20 dB, 0.1% 30 dB."""

    name: ClassVar[str] = "sqnr"
    higher_is_better: ClassVar[bool] = True
    perfect: ClassVar[float] = float("inf")
    unit: ClassVar[str] = "dB"

    def value(self) -> float:
        import math

        if not self.count:
            return math.nan
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    def drop(self, original: float, *, relative: bool) -> float:
        if not relative:
            message = "a drop of sqnr is the noise's share of the signal: --max-drop 1% is 20 dB"
            raise UsageError(message)
        return super().drop(original, relative=True)


@dataclass
class Cosine(Metric):
    """Cosine similarity with the original's output, averaged over the rows of its first axis."""

    name: ClassVar[str] = "cosine"
    perfect: ClassVar[float] = 1.0
    total: float = field(default=0.0, init=False)
    count: int = field(default=0, init=False)

    def update(self, output: "Array", reference: "Array") -> None:
        from tvmopt_plugins.metrics.embeddings import cosines

        found = cosines(output, reference)
        self.total += float(found.sum())
        self.count += len(found)

    def value(self) -> float:
        return self.total / self.count if self.count else float("nan")


@hookimpl
def tvmopt_register_metrics() -> list[type[Metric]]:
    return [Top1, Top5, F1, Perplexity, Agreement, RankCorrelation, Sqnr, Cosine, Mse]
