"""What an evaluation found: scores, how sure they are, and `results.json`."""

import io
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from segbench.errors import FormatError
from segbench.metrics.confusion import ABSENT_RULES, AbsentRule, ConfusionMatrix
from segbench.metrics.interval import Interval, bootstrap
from segbench.metrics.per_image import PerImageCounts
from segbench.results.stored import read_results, results_file, with_types, write_results

KIND = "segbench-results"
SCHEMA_VERSION = 1
_NOT_SUBSETS = frozenset({"image", "fg", *ABSENT_RULES})  # what may follow `miou_` otherwise
_SEED = 0  # of the bootstrap: the same counts give the same interval


def command_line() -> str:
    """What was called."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Scores of one segmenter on one task. Metrics are fractions; one that is undefined is NaN."""

    task: dict[str, Any]
    """id, version, hash, and the rule for absent classes behind `miou`."""
    model: dict[str, Any]
    """name."""
    data: dict[str, Any]
    """The data set's options, image counts, and a hash of the images and labels scored."""
    names: tuple[str, ...]
    """K class names by label id."""
    prompts: tuple[str, ...]
    """Names given to the model, by row of the text bank."""
    templates: tuple[str, ...]
    metrics: dict[str, float]
    """`miou` under the task's rule, `miou_<rule>` under each, and the others of `summarise`."""
    per_class: tuple[dict[str, Any], ...]
    """name, iou, acc, gt_pixels and pr_pixels by label id, and columns of further metrics."""
    definitions: dict[str, str]
    """What metrics beside the usual ones mean, a line each."""
    interval: Interval
    """Of `miou`, over the draw of images."""
    timing: dict[str, float]
    environment: dict[str, str]
    warnings: tuple[str, ...]
    """What a reader of the numbers has to know, such as skipped images."""
    command: str = field(default_factory=command_line)
    per_image: PerImageCounts = field(repr=False, compare=False)
    """Confusion counts of every image, stored beside `results.json`."""

    @property
    def miou(self) -> float:
        """Mean IoU under the task's rule for absent classes."""
        return self.metrics["miou"]

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the groups of classes that have a metric `miou_<name>`."""
        tails = (key.removeprefix("miou_") for key in self.metrics if key.startswith("miou_"))
        return tuple(tail for tail in tails if tail not in _NOT_SUBSETS)

    @property
    def confusion(self) -> ConfusionMatrix:
        """Counts of all images."""
        return ConfusionMatrix(self.per_image.classes, self.per_image.total())

    def summary(self) -> str:
        """A few lines for a terminal; every mIoU rule that gives another number is named."""
        lines = [
            f"{self.model['name']} on {self.task['id']}: mIoU {self.miou:.4f} "
            f"[{self.interval.low:.4f}, {self.interval.high:.4f}], "
            f"{self.data['images_scored']} images"
        ]
        rules = {rule: self.metrics[f"miou_{rule}"] for rule in ("union", "gt")}
        if rules["union"] != rules["gt"]:
            told = (f"{value:.4f} over {rule} > 0" for rule, value in rules.items())
            lines.append(f"  absent classes matter: mIoU {', '.join(told)}")
        others = [key for key in self.metrics if not key.startswith("miou")]
        others += [key for key in self.metrics if key == "miou_fg"]
        others += [f"miou_{name}" for name in self.subsets]
        lines.append("  " + ", ".join(f"{key} {self.metrics[key]:.4f}" for key in others))
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])

    def write(self, folder: Path) -> None:
        """Write `confusion.npy`, `per_image.npz` and then `results.json`; see `write_results`."""
        buffer = io.BytesIO()
        np.save(buffer, self.per_image.total())
        arrays = {"confusion.npy": buffer.getvalue(), "per_image.npz": self.per_image.to_bytes()}
        write_results(folder, self._fields(), arrays, kind=KIND, version=SCHEMA_VERSION)

    def _fields(self) -> dict[str, Any]:
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "per_image"}
        return {**content, "interval": asdict(self.interval)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `results.json`, or the one in a folder, with the counts beside it.

        Raises:
            FormatError: a file is missing, damaged, or of a kind or version that is not read here.
        """
        path = results_file(path)
        content = read_results(path, kind=KIND, version=SCHEMA_VERSION)
        per_image = PerImageCounts.read(path.parent / "per_image.npz")
        return cls(**with_types(content, ("names", "prompts", "templates")), per_image=per_image)


def summarise(
    per_image: PerImageCounts,
    *,
    names: Sequence[str],
    subsets: Mapping[str, Sequence[int]],
    rule: AbsentRule,
    background: int | None,
) -> tuple[dict[str, float], tuple[dict[str, Any], ...], Interval]:
    """All scores of a run, from its counts.

    Args:
        per_image: counts of at least one image.
        names: K class names.
        subsets: label ids by name; each adds `miou_<name>` under `rule`.
        rule: for absent classes, behind `miou`, `miou_image`, `miou_fg` and the subsets.
        background: label id of the background, which adds `miou_fg`; None without one.

    Returns:
        metrics: by name, at full precision.
        per_class: one row a class.
        interval: of `miou`.

    Raises:
        FormatError: a subset has the name of another metric.
    """
    if taken := sorted(_NOT_SUBSETS & set(subsets)):
        raise FormatError(f"a subset must not be named {taken[0]!r}: miou_{taken[0]} is taken")
    matrix = ConfusionMatrix(per_image.classes, per_image.total())
    metrics = {"miou": matrix.miou(rule)}
    metrics |= {f"miou_{each}": matrix.miou(each) for each in ABSENT_RULES}
    metrics["miou_image"] = per_image.miou_image(rule)
    if background is not None:
        metrics["miou_fg"] = matrix.miou_fg(background, rule)
    for name, ids in subsets.items():
        metrics[f"miou_{name}"] = matrix.miou(rule, ids)
    metrics |= {"macc": matrix.macc(), "pixel_acc": matrix.pixel_acc(), "fwiou": matrix.fwiou()}
    metrics |= per_image.diagnostics()
    interval = bootstrap(per_image, rng=np.random.default_rng(_SEED), rule=rule)
    return metrics, _per_class(matrix, names), interval


def _per_class(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    areas, ious, accuracies = matrix.areas, matrix.ious(), matrix.accuracies()
    return tuple(
        {
            "name": name,
            "iou": float(ious[label]),
            "acc": float(accuracies[label]),
            "gt_pixels": int(areas.gt[label]),
            "pr_pixels": int(areas.pr[label]),
        }
        for label, name in enumerate(names)
    )


def environment(device: torch.device) -> dict[str, str]:
    """Versions that a score may depend on, and the kind of device."""
    found = {"python": platform.python_version(), "platform": platform.system()}
    for package in ("segbench", "torch", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "unknown"
    is_gpu = device.type == "cuda"
    return {**found, "device": torch.cuda.get_device_name(device) if is_gpu else device.type}
