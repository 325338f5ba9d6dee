"""How a training went: speed and loss from its log, mIoU from the checkpoints that it kept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from groupvit import GroupViTSegmenter, TrainConfig, load_model
from integration.errors import DamagedError
from integration.stage import Stage, write_text
from integration.wiring import best_device
from segbench import Task, evaluate

POINT_IMAGES = 60
"""Images that a checkpoint is scored on, at most."""

Log = Sequence[Mapping[str, float]]
"""Lines of a training log."""

Curve = Mapping[str, Sequence[float]]
"""Of one run: `step` and `loss`, `point` and `miou`, each two of equal lengths."""


class ArmRun(NamedTuple):
    """Stages of one arm with one seed."""

    train: Stage
    evaluate: Stage
    points: Stage | None
    """Scores of checkpoints on the way; None where they are not wanted."""


def with_points(train: TrainConfig, points: int) -> TrainConfig:
    """The same training, with `points` checkpoints at equal distances that are kept."""
    every = math.ceil(train.optim.total_steps / points)
    return replace(train, checkpoint_every=every, checkpoints=points)


def points_stage(name: str, trained: Stage, task: Task, out: Path, *, cost: float) -> Stage:
    """Score the checkpoints of a training on a few images.

    Args:
        name: of the arm and its seed.
        trained: stage of the training.
        task: of scenes, what is scored.
        out: root of the stage folders.
        cost: expected seconds.
    """
    few = task.with_dataset(count=min(POINT_IMAGES, task.dataset["count"]))
    return Stage(
        name=f"points-{name}",
        settings={"task": few.hash},
        inputs=(trained,),
        run=partial(score_checkpoints, trained.folder(out), few),
        cost=cost,
    )


def score_checkpoints(run: Path, task: Task, folder: Path) -> None:
    """Write `points.json`: mIoU of every checkpoint of a run that is kept, by step."""
    device = best_device()
    found = {}
    for checkpoint in sorted(run.glob("checkpoint-*")):
        model = load_model(checkpoint).to(device)
        segmenter = GroupViTSegmenter(model, name=checkpoint.name, precision="float32")
        step = int(checkpoint.name.removeprefix("checkpoint-"))
        found[step] = evaluate(segmenter, task, device=device).miou
    write_text(folder / "points.json", json.dumps(found, indent=1))


def read_log(run: Path) -> list[dict[str, float]]:
    """Lines of a training log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def check_log(run: Path, every: int, total: int) -> None:
    """Refuse a finished training whose log has lost lines: numbers are made of it.

    Args:
        run: its folder.
        every: steps between two lines.
        total: steps; the last one has a line too.

    Raises:
        DamagedError: a line is missing.
    """
    wanted = {*range(every, total + 1, every), total}
    if lost := wanted - {int(line["step"]) for line in read_log(run)}:
        raise DamagedError(
            f"{run / 'log.jsonl'}: has lost the lines of {len(lost)} steps while the training was "
            "interrupted; it has to begin anew"
        )


def last_loss(log: Log) -> float:
    """Mean loss over the last tenth of the log."""
    tail = log[-max(len(log) // 10, 1) :]
    return sum(line["loss"] for line in tail) / len(tail)


def speed(logs: Sequence[Log]) -> dict[str, float]:
    """Median images a second and, of a known GPU, share of its peak (`mfu`), over all lines.

    The first line of a log is left out if there are others: what is compiled is compiled there.
    """
    lines = [line for log in logs for line in (log[1:] or log)]
    found = {}
    for name in ("images_per_s", "mfu"):
        if values := [line[name] for line in lines if name in line]:
            found[name] = median(values)
    return found


def curve(run: Path, scored: Path) -> Curve:
    """Loss of a run and mIoU of its checkpoints, scored in a folder, against steps."""
    log = read_log(run)
    points = json.loads((scored / "points.json").read_text())
    return {
        "step": [line["step"] for line in log],
        "loss": [line["loss"] for line in log],
        "point": [int(step) for step in points],
        "miou": [*points.values()],
    }
