"""Zero-shot image classification: exact counts, ties told as ties, and one loop over a data set."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from segbench.errors import DataMissingError, FormatError
from segbench.metrics.confusion import FloatArray, IntArray
from segbench.metrics.interval import LEVEL, RESAMPLES, Interval

LabelledImage: TypeAlias = tuple[str, npt.NDArray[np.uint8], int]
"""id, unique in the data set; (H, W, 3) RGB; label in [0, K)."""
_SEED = 0  # of the bootstrap: the same counts give the same interval


@runtime_checkable
class Classifier(Protocol):
    """A model that embeds images and prompts into one space.

    Resizing and normalisation of the image belong to the model and are applied by `encode_image`.
    """

    @property
    def name(self) -> str:
        """Name under which results are listed."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 raw embeddings of n prompts, as in `segbench.Segmenter`."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """(D,) raw embedding of a (3, H, W) float32 RGB image in [0, 1]."""
        ...


class Ranking(NamedTuple):
    """Where n images have their true class, scores in descending order."""

    rank: IntArray
    """(n,) 0 is best; of equal scores the lowest class comes first."""
    tied: npt.NDArray[np.bool_]
    """(n,) whether more than one class has the best score."""
    lost: npt.NDArray[np.bool_]
    """(n,) whether the true class has the best score and a lower class has it too."""


def duplicate_names(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Names given to more than one class, with their labels; in ImageNet "missile", "sunglasses".

    Equal names have equal prompts, so their classes always tie and only the lowest is ever
    predicted (LAION-AI/CLIP_benchmark#124).
    """
    labels = defaultdict(list)
    for label, name in enumerate(names):
        labels[name].append(label)
    return {name: tuple(ids) for name, ids in labels.items() if len(ids) > 1}


def rank_truth(scores: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> Ranking:
    """Rank the true class of n images among K classes.

        rank = |{c : s_c > s_t}| + |{c < t : s_c = s_t}|        for the true class t

    Args:
        scores: (n, K) finite floating point, higher is better.
        labels: (n,) integers in [0, K).
        names: K class names; classes of one name share the highest of their scores, so that they
            tie whatever the rounding of a matrix product did.

    Raises:
        ValueError: shapes disagree, a label is out of range, or a score is not finite.
    """
    _check_scores(scores, labels)
    if names is not None:
        if len(names) != scores.shape[1]:
            raise ValueError(f"got {len(names)} names for {scores.shape[1]} classes")
        scores = scores.clone()
        for ids in duplicate_names(names).values():
            scores[:, ids] = scores[:, ids].amax(dim=1, keepdim=True)
    true = labels.to(scores.device).long()[:, None]  # (n, 1)
    own = scores.gather(1, true)  # (n, 1)
    equal = scores == own  # (n, K)
    lower = torch.arange(scores.shape[1], device=scores.device) < true  # (n, K)
    above, before = (scores > own).sum(dim=1), (equal & lower).sum(dim=1)  # (n,), (n,)
    tied = (scores == scores.amax(dim=1, keepdim=True)).sum(dim=1) > 1  # (n,)
    lost = (above == 0) & (before > 0)  # (n,)
    return Ranking(*(part.cpu().numpy() for part in (above + before, tied, lost)))


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    got = f"{scores.dtype} {tuple(scores.shape)} and {labels.dtype} {tuple(labels.shape)}"
    if scores.ndim != 2 or scores.shape[1] < 1 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (n, K) with n labels, got {got}")
    if not scores.is_floating_point() or labels.is_floating_point():
        raise ValueError(f"scores must be floating point and labels integers, got {got}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite")
    if bool(((labels < 0) | (labels >= scores.shape[1])).any()):
        raise ValueError(f"labels must be in [0, {scores.shape[1]}), got {labels.tolist()[:10]}")


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationCounts:
    """Exact counts of classified images by true class; they add up in any order."""

    total: IntArray
    """(K,) images."""
    first: IntArray
    """(K,) images whose true class is ranked first."""
    five: IntArray
    """(K,) images whose true class is among the first five."""
    ties: int
    """Images in which more than one class has the best score."""
    ties_lost: int
    """Images whose true class has the best score and still counts as wrong, as a lower class has it
    too."""

    @classmethod
    def of(cls, ranking: Ranking, labels: IntArray, classes: int) -> "ClassificationCounts":
        """Counts of n ranked images with (n,) labels in [0, K)."""
        of_class = [labels, labels[ranking.rank < 1], labels[ranking.rank < 5]]
        total, first, five = (np.bincount(part, minlength=classes) for part in of_class)
        return cls(total, first, five, int(ranking.tied.sum()), int(ranking.lost.sum()))

    def __add__(self, other: Self) -> "ClassificationCounts":
        """Counts of both.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if len(self.total) != len(other.total):
            raise ValueError(f"counts must share classes: {len(self.total)}, {len(other.total)}")
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ClassificationCounts(*(mine + theirs for mine, theirs in pairs))

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.total.sum())

    def recalls(self) -> FloatArray:
        """(K,) share of the class's images that are right, NaN for a class without any."""
        shares = np.full(len(self.total), np.nan)
        np.divide(self.first, self.total, out=shares, where=self.total > 0)
        return shares

    def metrics(self) -> dict[str, float]:
        """Scores under the keys of CLIP_benchmark, and ties; NaN where there is no image.

        Returns:
            acc1: share of images ranked right, the lowest class winning a tie.
            acc5: share whose true class is among the first five; NaN below five classes.
            mean_per_class_recall: mean of `recalls` over the classes that have an image.
            ties: images in which more than one class has the best score.
            ties_lost: those of them that are wrong only because a lower class won the tie.
        """
        known = self.recalls()[self.total > 0]
        n = self.images
        return {
            "acc1": int(self.first.sum()) / n if n else np.nan,
            "acc5": int(self.five.sum()) / n if n and len(self.total) >= 5 else np.nan,
            "mean_per_class_recall": float(known.mean()) if n else np.nan,
            "ties": float(self.ties),
            "ties_lost": float(self.ties_lost),
        }


def classify_scores(
    scores: Tensor, labels: Tensor, names: Sequence[str] | None = None
) -> ClassificationCounts:
    """Count how n images are classified; see `rank_truth` for arguments and errors."""
    ranking = rank_truth(scores, labels, names)
    return ClassificationCounts.of(ranking, labels.cpu().numpy().astype(np.int64), scores.shape[1])


def bootstrap_share(
    right: int,
    images: int,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap interval of a share of images.

    Of `images` draws with replacement, the number that is right is binomial: the resamples are
    drawn from that, which is the same bootstrap without drawing every image.

    Raises:
        ValueError: no image, more right ones than images, or `level` outside (0, 1).
    """
    if not 0 <= right <= images or images < 1 or not 0 < level < 1:
        raise ValueError(
            f"a share needs 0 <= right <= images >= 1 and level in (0, 1), "
            f"got {right}, {images} and {level}"
        )
    shares = rng.binomial(images, right / images, size=resamples) / images  # (resamples,)
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(right / images, float(low), float(high), level, resamples, images)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassificationReport:
    """What a classification run found."""

    model: str
    names: tuple[str, ...]
    """K class names by label."""
    metrics: dict[str, float]
    """See `ClassificationCounts.metrics`."""
    interval: Interval
    """Of acc1, over the draw of images."""
    warnings: tuple[str, ...]
    """What a reader of the numbers has to know."""
    ids: tuple[str, ...] = field(repr=False)
    """I image ids, in the order of the data set."""
    labels: IntArray = field(repr=False)
    """(I,) true classes."""
    ranks: IntArray = field(repr=False)
    """(I,) rank of the true class, 0 is best."""

    def summary(self) -> str:
        """A few lines for a terminal."""
        m = self.metrics
        head = (
            f"{self.model}: acc1 {m['acc1']:.4f} "
            f"[{self.interval.low:.4f}, {self.interval.high:.4f}], acc5 {m['acc5']:.4f}, "
            f"mean per-class recall {m['mean_per_class_recall']:.4f}, {len(self.ids)} images"
        )
        return "\n".join([head, *(f"  warning: {text}" for text in self.warnings)])


@torch.inference_mode()
def evaluate_classification(
    classifier: Classifier,
    dataset: Iterable[LabelledImage],
    bank: Tensor,
    names: Sequence[str],
    *,
    device: str | torch.device = "cpu",
) -> ClassificationReport:
    """Classify every image of a data set by the nearest class of a text bank.

    The score of class c is the cosine of its row and the image's embedding, in float32.

    Args:
        classifier: the model; it is handed tensors on `device` and has to be there itself.
        dataset: any iterable of (id, (H, W, 3) uint8 RGB, label), read once.
        bank: (K, D) unit rows, as `build_bank(classifier.encode_text, names, templates)` gives.
        names: K class names by label; those of one name tie (`duplicate_names`).
        device: where images are put.

    Raises:
        DataMissingError: the data set is empty.
        FormatError: an image, its label or its id is not as said above.
        TypeError: `classifier` does not satisfy the protocol.
        ValueError: the bank is not (K, D) unit rows, or an embedding is not (D,), finite, not zero.
    """
    if not isinstance(classifier, Classifier):
        raise TypeError(f"{type(classifier).__name__} has no name, encode_text and encode_image")
    rows = _checked_bank(bank, len(names)).to(device)  # (K, D)
    ids, labels, rankings = [], [], []
    for image_id, image, label in _checked_images(dataset, len(names)):
        pixels = torch.tensor(image, device=device).permute(2, 0, 1).float().div(255)  # (3, H, W)
        scores = rows @ _unit(classifier.encode_image(pixels), rows, image_id)  # (K,)
        rankings.append(rank_truth(scores[None], torch.tensor([label]), names))
        ids.append(image_id)
        labels.append(label)
    if not ids:
        raise DataMissingError("the data set has no image")
    ranking = Ranking(*(np.concatenate(parts) for parts in zip(*rankings, strict=True)))
    true = np.array(labels, dtype=np.int64)  # (I,)
    counts = ClassificationCounts.of(ranking, true, len(names))
    return ClassificationReport(
        model=classifier.name,
        names=tuple(names),
        metrics=counts.metrics(),
        interval=bootstrap_share(
            int(counts.first.sum()), counts.images, rng=np.random.default_rng(_SEED)
        ),
        warnings=tuple(_warnings(names, counts)),
        ids=tuple(ids),
        labels=true,
        ranks=ranking.rank,
    )


def _checked_bank(bank: Tensor, classes: int) -> Tensor:
    if bank.ndim != 2 or len(bank) != classes or not classes:
        raise ValueError(f"the bank must be ({classes} names, D), got {tuple(bank.shape)}")
    if not torch.allclose(bank.float().norm(dim=1), torch.ones(1, device=bank.device), atol=1e-3):
        raise ValueError("the bank must have unit rows; see segbench.build_bank")
    return bank.float()


def _checked_images(dataset: Iterable[LabelledImage], classes: int) -> Iterator[LabelledImage]:
    seen: set[str] = set()
    for image_id, image, label in tqdm(dataset, desc="classify", unit="image", disable=None):
        if image_id in seen:
            raise FormatError(f"two images have the id {image_id!r}")
        seen.add(image_id)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise FormatError(
                f"image {image_id}: must be (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        if not 0 <= label < classes:
            raise FormatError(f"image {image_id}: label must be in [0, {classes}), got {label}")
        yield image_id, image, int(label)


def _unit(embedding: Tensor, rows: Tensor, image_id: str) -> Tensor:
    norm = embedding.float().norm()
    if embedding.shape != rows.shape[1:] or not bool(norm.isfinite() & (norm > 0)):
        raise ValueError(
            f"encode_image of {image_id} must give ({rows.shape[1]},), finite and not zero, "
            f"got {tuple(embedding.shape)} of norm {float(norm)}"
        )
    return F.normalize(embedding.float(), dim=0)


def _warnings(names: Sequence[str], counts: ClassificationCounts) -> Iterator[str]:
    if twice := duplicate_names(names):
        told = ", ".join(f"{name} {ids}" for name, ids in sorted(twice.items()))
        yield f"names given to more than one class, of which only the lowest can win: {told}"
    if counts.ties:
        yield (
            f"{counts.ties} of {counts.images} images have more than one best class; "
            f"{counts.ties_lost} are wrong only because the lowest of them wins"
        )
    if absent := int((counts.total == 0).sum()):
        yield f"{absent} of {len(counts.total)} classes have no image"
