"""The evaluation stage: one model on one task, segmentation or ImageNet."""

import json
from collections.abc import Sequence
from pathlib import Path

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


def score(
    task: Task | ClassificationTask,
    trained: Path,
    name: str,
    data: Path,
    limit: int | None,
    ranks: Ranks,
    folder: Path,
) -> None:
    """Score one model on one task, every rank some of the images; a killed one goes on.

    Args:
        task: of segbench.
        trained: folder of the training.
        name: what results call the model.
        data: root of the data sets.
        limit: at most this many images.
        ranks: this process among the others.
        folder: of the stage; gets `summary.json` beside segbench's results.
    """
    device = best_device()
    # float32, so that a score does not hang on what the machine multiplies in hardware
    model = load_model(trained).to(device).eval()
    given = {"root": data, "out": folder, "limit": limit, "device": device, "skip_existing": True}
    if isinstance(task, ClassificationTask):
        classified = evaluate_classification(GroupViTClassifier(model, name), task, **given)  # type: ignore[arg-type]  # by name
        metrics, seen = classified.metrics, classified.data
    else:
        segmenter = GroupViTSegmenter(model, name=name, precision="float32")
        report = evaluate(segmenter, task, **given)  # type: ignore[arg-type]  # by name
        metrics, seen = report.metrics, report.data
    if ranks.leads:
        summary = {"task": task.id, "images": seen["images_scored"], "metrics": dict(metrics)}
        write_text(folder / SUMMARY, json.dumps(summary, indent=1))
    if device.type == "cuda":
        torch.cuda.empty_cache()
