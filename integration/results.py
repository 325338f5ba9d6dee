"""Numbers of a finished run: gathered from stage folders, averaged over seeds, as Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from integration.progress import ArmRun, Curve, Log, curve, last_loss, read_log, speed
from integration.stage import Stage, with_inputs
from segbench import ConfusionMatrix, Report

SHOWN = {
    "miou": "mIoU",
    "miou_stuff": "stuff",
    "miou_thing": "things",
    "pixel_acc": "pixel acc.",
    "present_recall": "recall of present classes",
    "distinct_classes": "classes / image",
    "grouping_purity": "grouping purity",
}
"""Metrics of the main table and their headings."""

MEANINGS = {
    "miou": "**mIoU**: intersection over union of a class's predicted and true pixels, mean over "
    "classes; 1 is perfect",
    "miou_stuff": "**stuff**: mIoU of what has no shape of its own, like sky",
    "miou_thing": "**things**: mIoU of objects, like a house",
    "pixel_acc": "**pixel acc.**: share of pixels whose class is right",
    "present_recall": "**recall of present classes**: share of the classes in a picture that are "
    "predicted somewhere in it",
    "distinct_classes": "**classes / image**: how many are predicted in a picture",
    "grouping_purity": "**grouping purity**: share of pixels that have the commonest true class of "
    "their group; at 1 no group mixes classes, whatever they are called",
}
"""What the metrics of the main table are."""

ONE_SEED = "One seed says little: how far others lie from it is not known (--seeds 3 tells)."


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds and its standard error."""

    mean: float
    error: float | None
    """None for a single seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard error of the mean (sample deviation / sqrt n)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, None)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance / len(values)))


def paired_gain(first: Sequence[float], second: Sequence[float]) -> Spread:
    """Mean of the differences second - first, seed by seed, and its standard error."""
    return spread([b - a for a, b in zip(first, second, strict=True)])


@dataclass(frozen=True, slots=True)
class Outcome:
    """All numbers of a run, as plain values."""

    metrics: Mapping[str, Mapping[str, list[float]]]
    """Metric by arm: one value a seed."""
    losses: Mapping[str, float]
    """Mean of the last tenth of the log by arm, over seeds."""
    quality: Mapping[str, Any]
    """Archive quality by way of ranking."""
    gap: Mapping[str, float] | None
    """Share of present classes that captions name."""
    seconds: Mapping[str, float]
    """By stage."""
    speed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Images a second of training by arm, and `mfu` where the peak of a GPU is known."""
    convergence: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    """Loss and mIoU against steps by arm, one a seed, where checkpoints are scored."""


def gather(
    out: Path,
    *,
    pairs: Stage,
    archive: Stage,
    runs: Mapping[tuple[str, int], ArmRun],
) -> Outcome:
    """Read what the stages left."""
    metrics: dict[str, dict[str, list[float]]] = {}
    logs: dict[str, list[Log]] = {}
    curves: dict[str, list[Curve]] = {}
    for (arm, _), run in runs.items():
        summary = json.loads((run.evaluate.folder(out) / "summary.json").read_text())
        for name, value in summary.items():
            if isinstance(value, int | float):
                metrics.setdefault(arm, {}).setdefault(name, []).append(float(value))
        logs.setdefault(arm, []).append(read_log(run.train.folder(out)))
        if run.points is not None:
            curves.setdefault(arm, []).append(curve(run.train.folder(out), run.points.folder(out)))
    gap = pairs.folder(out) / "gap.json"
    used = [pairs, archive, *(stage for run in runs.values() for stage in run if stage)]
    return Outcome(
        metrics=metrics,
        losses={arm: spread([*map(last_loss, each)]).mean for arm, each in logs.items()},
        quality=json.loads((archive.folder(out) / "quality.json").read_text()),
        gap=json.loads(gap.read_text()) if gap.exists() else None,
        seconds={stage.name: stage.seconds(out) or 0.0 for stage in with_inputs(used)},
        speed={arm: speed(each) for arm, each in logs.items()},
        convergence=curves,
    )


def chance_level(report: Report) -> float:
    """Expected mIoU of labels drawn at random, each class as likely, on what was scored.

    The true pixels of a class spread evenly over K predictions. With p their share of all pixels,
    the class's IoU is p / (1 + (K - 1) p); the mean is by the task's rule.
    """
    true = report.confusion.areas.gt  # (K,)
    even = np.repeat(true[:, None], len(true), axis=1)  # (K, K), K times what is expected
    return ConfusionMatrix(len(true), even).miou(report.task["absent"])


def markdown(outcome: Outcome) -> str:
    """The tables of a run."""
    parts = [scores(outcome), quality_table(outcome.quality), times(outcome)]
    return "\n\n".join(parts) + "\n"


def scores(outcome: Outcome) -> str:
    """What captions name, where it is known, and the table of arms."""
    if outcome.gap is None:
        return arms_table(outcome)
    gap = outcome.gap
    told = (
        f"Captions name {gap['stuff']:.0%} of the stuff and {gap['thing']:.0%} of the things "
        f"that can be seen, and {gap['false']:.0%} of what they name is not there."
    )
    return f"{told}\n\n{arms_table(outcome)}"


def times(outcome: Outcome) -> str:
    """Tables of speed, where it is known, and of seconds."""
    parts = [speed_table(outcome.speed)] if any(outcome.speed.values()) else []
    return "\n\n".join([*parts, seconds_table(outcome.seconds)])


def arms_table(outcome: Outcome) -> str:
    """Arms by metric: mean and standard error over seeds, and the paired gain over the baseline."""
    shown = {k: v for k, v in SHOWN.items() if k in next(iter(outcome.metrics.values()))}
    rows = [["arm", *shown.values(), "final loss"]]
    for arm, values in outcome.metrics.items():
        cells = [str(spread(values[name])) for name in shown]
        rows.append([arm, *cells, f"{outcome.losses[arm]:.3f}"])
    if {"baseline", "cocu"} <= outcome.metrics.keys():
        base, ours = outcome.metrics["baseline"], outcome.metrics["cocu"]
        gains = [paired_gain(base[name], ours[name]) for name in shown]
        rows.append(["cocu - baseline", *map(str, gains), ""])
    seeds = len(next(iter(outcome.metrics.values()))["miou"])
    note = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard error"
    meanings = [MEANINGS[name] for name in shown]
    final = "**final loss**: of training, mean over the last tenth of its log"
    caption = f"Zero-shot segmentation, by the names of classes alone ({note})."
    return f"{caption}\n\n{table(rows)}\n\n{'. '.join([*meanings, final])}."


def quality_table(quality: Mapping[str, Any]) -> str:
    """Ways of ranking by recall and precision at k of missing concepts."""
    first = next(iter(quality.values()))
    ks = list(first["recall"])
    heads = [f"R@{k}" for k in ks] + [f"P@{k}" for k in ks]
    rows = [["curation", *heads]]
    for name, report in quality.items():
        cells = [f"{report[kind][k]:.3f}" for kind in ("recall", "precision") for k in ks]
        rows.append([name, *cells])
    return (
        "Archive quality: does a list of concepts, best first, bring what its picture shows and "
        f"the caption leaves out?\n\n{table(rows)}\n\n"
        f"Captions name {first['named']:.0%} of the concepts that pictures show; "
        f"{first['pairs_with_missing']} of {first['pairs']} leave something out, and means are "
        "over them. **R@k**: recall, the share of what was left out that is among the first k "
        "concepts of the list that the caption does not name. **P@k**: precision, the share of "
        f"these k that the picture shows, where a shorter list counts as k. {CURATIONS}"
    )


CURATIONS = (
    "Equations are those of the CoCu paper (arXiv:2309.13505). **Language-driven**: concepts come "
    "from the captions that fit the picture best. **Vision-driven**: from the captions of the "
    "pictures that look most like it. **Eq. 6** ranks them by how strongly the picture responds to "
    "the concept (cosine of CLIP's features). **Eqs. 7-8** also ask whether it responds more "
    "strongly than the pictures whose captions brought the concept."
)
"""What the ways of ranking are."""


def speed_table(speeds: Mapping[str, Mapping[str, float]]) -> str:
    """Images a second of training, and the share of a GPU's peak where it is known."""
    known = any("mfu" in rates for rates in speeds.values())
    rows = [["arm", "images / s", *(["MFU"] if known else [])]]
    for arm, rates in speeds.items():
        share = [f"{rates['mfu']:.3f}" if "mfu" in rates else ""] if known else []
        rows.append([arm, f"{rates['images_per_s']:.0f}" if rates else "", *share])
    note = "\n\n**MFU**: share of the GPU's peak arithmetic that the model's own makes up."
    return f"Speed of training, median of the log.\n\n{table(rows)}{note if known else ''}"


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Seconds per stage."""
    rows = [["stage", "seconds"], *([name, f"{s:.0f}"] for name, s in seconds.items())]
    rows.append(["all", f"{sum(seconds.values()):.0f}"])
    return "Seconds per stage.\n\n" + table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    rule = "|" + "---|" * len(rows[0])
    return "\n".join([head, rule, *body])
