"""Numbers of a finished run: gathered from stage folders, averaged over seeds, as Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration.progress import ArmRun, Curve, Log, curve, last_loss, read_log, speed
from integration.stage import Stage, with_inputs

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


def markdown(outcome: Outcome) -> str:
    """The tables of a run."""
    parts = [arms_table(outcome), quality_table(outcome.quality)]
    if outcome.gap is not None:
        gap = outcome.gap
        parts.insert(
            0,
            f"Captions name {gap['stuff']:.0%} of the stuff and {gap['thing']:.0%} of the things "
            f"that can be seen ({gap['all']:.0%} of all), and {gap['false']:.0%} of what they name "
            "is not there.",
        )
    if any(outcome.speed.values()):
        parts.append(speed_table(outcome.speed))
    parts.append(seconds_table(outcome.seconds))
    return "\n\n".join(parts) + "\n"


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
    return f"Zero-shot segmentation ({note}).\n\n" + table(rows)


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
        "Archive quality: recall and precision at k of concepts that are present and not in the "
        f"caption ({first['pairs_with_missing']} of {first['pairs']} pairs miss one; captions name "
        f"{first['named']:.0%} of what is present).\n\n" + table(rows)
    )


def speed_table(speeds: Mapping[str, Mapping[str, float]]) -> str:
    """Images a second of training, and the share of a GPU's peak where it is known."""
    rows = [["arm", "images / s", "MFU"]]
    for arm, rates in speeds.items():
        share = f"{rates['mfu']:.3f}" if "mfu" in rates else ""
        rows.append([arm, f"{rates['images_per_s']:.0f}" if rates else "", share])
    return "Training, medians of the log.\n\n" + table(rows)


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
