"""The evaluation stage: one model on one task, segmentation or ImageNet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groupvit import IMAGE_MEAN, IMAGE_STD, GroupViT, GroupViTSegmenter, load_model
from integration.papers.launch import Ranks
from integration.stage import write_text
from integration.wiring import best_device
from segbench import ClassificationTask, Task, evaluate, evaluate_classification

SUMMARY = "summary.json"


class GroupViTClassifier:
    """A trained GroupViT as segbench classifies whole images with it.

    Args:
        model: the model; it is put in evaluation mode and computes in float32.
        name: what result tables call it.
    """

    def __init__(self, model: GroupViT, name: str) -> None:
        self._segmenter = GroupViTSegmenter(model, name=name, precision="float32")
        self.image_px = model.config.vision.image_px

    @property
    def name(self) -> str:
        """What result tables call it."""
        return self._segmenter.name

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 projections of prompts, not normalised."""
        return self._segmenter.encode_text(prompts)

    @torch.inference_mode()
    def encode_image(self, image: Tensor) -> Tensor:
        """(D,) float32 projection of a (3, H, W) image in [0, 1], not normalised."""
        mean, std = (image.new_tensor(each)[:, None, None] for each in (IMAGE_MEAN, IMAGE_STD))
        normalised = (image - mean) / std  # (3, H, W)
        return self._segmenter.model.encode_image(normalised[None])[0][0].float()


class Scorer:
    """Scores trained models, and keeps the last one for its other tasks.

    Args:
        data: root of the data sets.
        limit: at most this many images of a task.
        ranks: this process among the others.
    """

    def __init__(self, data: Path, limit: int | None, ranks: Ranks) -> None:
        self.data, self.limit, self.ranks = data, limit, ranks
        self._last: tuple[Path, GroupViT] | None = None

    def score(
        self, task: Task | ClassificationTask, trained: Path, name: str, folder: Path
    ) -> None:
        """Score one model on one task, every rank some of the images; a killed one goes on.

        Args:
            task: of segbench.
            trained: folder of the training.
            name: what results call the model.
            folder: of the stage; gets `summary.json` beside segbench's results.
        """
        model = self._model(trained)
        given = options(self.data, self.limit, folder)
        # float32, so that a score does not hang on what the machine multiplies in hardware
        if isinstance(task, ClassificationTask):
            classified = evaluate_classification(GroupViTClassifier(model, name), task, **given)
            metrics, seen = classified.metrics, classified.data
        else:
            segmenter = GroupViTSegmenter(model, name=name, precision="float32")
            report = evaluate(segmenter, task, **given)
            metrics, seen = report.metrics, report.data
        if self.ranks.leads:
            write_summary(task, seen["images_scored"], metrics, folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def forget(self) -> None:
        """Let the last model go: the next training has its memory."""
        self._last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self, trained: Path) -> GroupViT:
        if self._last is None or self._last[0] != trained:
            self._last = None  # before the next one takes memory
            self._last = trained, load_model(trained).to(best_device()).eval()
        return self._last[1]


def options(data: Path, limit: int | None, folder: Path) -> dict[str, Any]:
    """What segbench is told of every evaluation."""
    return {
        "root": data,
        "out": folder,
        "limit": limit,
        "device": best_device(),
        "skip_existing": True,
    }


def write_summary(
    task: Task | ClassificationTask, images: int, metrics: Mapping[str, float], folder: Path
) -> None:
    """Write what the report reads of an evaluation."""
    summary = {"task": task.id, "images": images, "metrics": dict(metrics)}
    write_text(folder / SUMMARY, json.dumps(summary, indent=1))
