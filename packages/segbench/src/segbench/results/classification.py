"""What a classification found: scores, how sure they are, and its `results.json`."""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from segbench.errors import FormatError
from segbench.metrics.classification import ClassificationCounts, Ranking, bootstrap_share
from segbench.metrics.confusion import IntArray
from segbench.metrics.interval import Interval
from segbench.results.report import command_line
from segbench.results.stored import read_results, results_file, with_types, write_results

KIND = "segbench-classification"
SCHEMA_VERSION = 1
ANSWERS = "answers.npz"
_ANSWERS_KIND, _ANSWERS_VERSION = "segbench-answers", 1
_COLUMNS = ("labels", "predictions", "ranks", "tied", "lost")
_SEED = 0  # of the bootstrap: the same answers give the same interval


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model said of I images: what intervals and comparisons are made from."""

    ids: tuple[str, ...]
    """I image ids, in the order of the data set."""
    labels: IntArray
    """(I,) true classes."""
    predictions: IntArray
    """(I,) classes ranked first."""
    ranks: IntArray
    """(I,) rank of the true class, 0 is best."""
    tied: IntArray
    """(I,) 1 where more than one class has the best score."""
    lost: IntArray
    """(I,) 1 where the true class has the best score and a lower class has it too."""

    def counts(self, classes: int) -> ClassificationCounts:
        """Counts by true class among K classes."""
        ranking = Ranking(self.ranks, self.tied > 0, self.lost > 0, self.predictions)
        return ClassificationCounts.of(ranking, self.labels, classes)

    def select(self, ids: Sequence[str]) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Labels of these images, (n,), and whether each was right, (n,).

        Raises:
            KeyError: an id is not here.
        """
        row = {image_id: index for index, image_id in enumerate(self.ids)}
        chosen = np.array([row[image_id] for image_id in ids], np.int64)  # (n,)
        return self.labels[chosen], self.ranks[chosen] == 0

    def to_bytes(self) -> bytes:
        """The contents of `answers.npz`."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            kind=np.array(_ANSWERS_KIND),
            version=np.array(_ANSWERS_VERSION),
            ids=np.array(self.ids, dtype=np.str_),
            **{name: getattr(self, name) for name in _COLUMNS},
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `answers.npz`.

        Raises:
            FormatError: the file is damaged, of another kind or of another version.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path}: cannot be read: {error}") from error
        found = str(arrays.get("kind")), int(arrays.get("version", 0))
        if found != (_ANSWERS_KIND, _ANSWERS_VERSION):
            raise FormatError(
                f"{path}: found {found[0]} version {found[1]}, "
                f"reads {_ANSWERS_KIND} {_ANSWERS_VERSION}"
            )
        ids = tuple(str(image_id) for image_id in arrays["ids"])
        return cls(ids, *(arrays[name] for name in _COLUMNS))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationReport:
    """Scores of one classifier on one task. Metrics are fractions; one that is undefined is NaN."""

    task: dict[str, Any]
    """id, version and hash."""
    model: dict[str, Any]
    """name, and fingerprint if it has one."""
    data: dict[str, Any]
    """As of a `Report`, and the size that images were resized and cropped to."""
    names: tuple[str, ...]
    """K class names by label, as they were given to the model."""
    templates: tuple[str, ...]
    metrics: dict[str, float]
    """See `ClassificationCounts.metrics`."""
    per_class: tuple[dict[str, Any], ...]
    """name, recall, recall5, images and predicted (how many images were called so) by label."""
    interval: Interval
    """Of `acc1`, over the draw of images."""
    timing: dict[str, float]
    environment: dict[str, str]
    warnings: tuple[str, ...]
    """What a reader of the numbers has to know, such as skipped images."""
    command: str = field(default_factory=command_line)
    answers: Answers = field(repr=False, compare=False)
    """What was said of every image, stored beside `results.json`."""

    def summary(self) -> str:
        """A few lines for a terminal."""
        m = self.metrics
        lines = [
            f"{self.model['name']} on {self.task['id']}: acc1 {m['acc1']:.4f} "
            f"[{self.interval.low:.4f}, {self.interval.high:.4f}], acc5 {m['acc5']:.4f}, "
            f"mean per-class recall {m['mean_per_class_recall']:.4f}, "
            f"{self.data['images_scored']} images"
        ]
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])

    def write(self, folder: Path) -> None:
        """Write `answers.npz` and then `results.json`; see `write_results`."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "answers"}
        content["interval"] = asdict(self.interval)
        arrays = {ANSWERS: self.answers.to_bytes()}
        write_results(folder, content, arrays, kind=KIND, version=SCHEMA_VERSION)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `results.json`, or the one in a folder, with the answers beside it.

        Raises:
            FormatError: a file is missing, damaged, or of a kind or version that is not read here.
        """
        path = results_file(path)
        content = read_results(path, kind=KIND, version=SCHEMA_VERSION)
        answers = Answers.read(path.parent / ANSWERS)
        return cls(**with_types(content, ("names", "templates")), answers=answers)


def summarise_answers(
    answers: Answers, names: Sequence[str]
) -> tuple[dict[str, float], tuple[dict[str, Any], ...], Interval]:
    """All scores of a run, from its answers.

    Args:
        answers: of at least one image.
        names: K class names.

    Returns:
        metrics: by name, at full precision.
        per_class: one row a class.
        interval: of `acc1`.
    """
    counts = answers.counts(len(names))
    right = int(counts.first.sum())
    interval = bootstrap_share(right, counts.images, rng=np.random.default_rng(_SEED))
    predicted = np.bincount(answers.predictions, minlength=len(names))  # (K,)
    numbers = (counts.first, counts.five, counts.total, predicted)
    rows = zip(names, *(number.tolist() for number in numbers), strict=True)
    per_class = tuple(
        {
            "name": name,
            # the constant, as `with_types` gives it, so that a report that is read back is equal
            "recall": first / images if images else math.nan,
            "recall5": five / images if images else math.nan,
            "images": images,
            "predicted": called,
        }
        for name, first, five, images, called in rows
    )
    return counts.metrics(), per_class, interval
