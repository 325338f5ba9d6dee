"""True masks are given, and only their names are sought."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench import (
    FormatError,
    Segmenter,
    Task,
    UsageError,
    evaluate,
    load_task,
    predict_labels,
    score_folder,
)

SCENES = {"kind": "scenes"}
NAMES = ("red", "green", "blue")


class Noisy:
    """Scores by colour channel at a quarter of the resolution, with noise at every place."""

    name = "noisy"

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.eye(3)[: len(prompts)]

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        scores = torch.einsum("kd,dyx->kyx", bank, F.avg_pool2d(image, 4, ceil_mode=True))
        draw = torch.Generator().manual_seed(len(scores[0]))
        return scores + self.noise * torch.randn(scores.shape, generator=draw)


def labels_and_image() -> tuple[np.ndarray, Tensor]:
    labels = np.zeros((24, 36), np.int64)  # (H, W)
    labels[:, 20:] = 1
    labels[2:6, 2:6] = 2
    labels[15:22, 25:34] = 2  # a second part of the class
    labels[0] = -1
    return labels, torch.from_numpy(np.eye(3, dtype=np.float32)[labels]).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["class", "component"])
@pytest.mark.parametrize("window", [{}, {"window_px": 16, "stride_px": 8}])
def test_every_mask_has_the_class_of_highest_mean_score(kind: str, window: dict[str, int]) -> None:
    labels, image = labels_and_image()
    task = Task(id="a@b", dataset=SCENES, regions=kind, **window)  # type: ignore[arg-type]
    plain = replace(task, regions="none")
    scores = _full_scores(plain, image)  # (3, H, W)
    got = predict_labels(Noisy(0.8), image, torch.eye(3), task, NAMES, truth=labels).numpy()
    parts = [labels == 0, labels == 1]
    second = np.zeros_like(labels, dtype=bool)
    second[15:22, 25:34] = True
    twos = labels == 2
    parts += [twos] if kind == "class" else [twos & second, twos & ~second]
    for part in parts:
        best = scores[:, torch.from_numpy(part)].mean(dim=1).argmax().item()
        assert set(got[part].tolist()) == {best}
    assert (got[0] == 0).all()
    unpooled = predict_labels(Noisy(0.8), image, torch.eye(3), plain, NAMES).numpy()
    assert (got[1:] == labels[1:]).mean() > (unpooled[1:] == labels[1:]).mean()


def _full_scores(task: Task, image: Tensor) -> Tensor:
    """(3, H, W) scores resized to the image, windows averaged, written out."""
    model = Noisy(0.8)
    if task.window_px is None:
        scores = model.segment(image, torch.eye(3))
        return F.interpolate(scores[None], image.shape[1:], mode="bilinear")[0]
    height, width = image.shape[1:]
    total, hits = torch.zeros(3, height, width), torch.zeros(height, width)
    for top in (0, 8):
        for left in (0, 8, 16, 20):
            part = model.segment(image[:, top : top + 16, left : left + 16], torch.eye(3))
            part = F.interpolate(part[None], (16, 16), mode="bilinear")[0]
            total[:, top : top + 16, left : left + 16] += part
            hits[top : top + 16, left : left + 16] += 1
    return total / hits


def test_an_evaluation_names_masks_and_counts_them(
    painted: Segmenter, mini: Path, mini_task: Path
) -> None:
    task = replace(load_task(mini_task), regions="class")
    report = evaluate(painted, task, root=mini, metrics=["mask_acc"])
    assert report.metrics["miou"] == report.metrics["mask_acc"] == 1
    whole = replace(task, regions="none")
    noisy = [evaluate(Noisy(2), each, root=mini).metrics["miou"] for each in (task, whole)]
    assert noisy[0] != noisy[1]


def test_synonyms_and_an_image_without_labels() -> None:
    labels, image = labels_and_image()
    task = Task(id="a@b", dataset=SCENES, regions="class")
    owners = torch.tensor([2, 2, 1])  # two names of one class
    got = predict_labels(
        Noisy(0), image, torch.eye(3), task, NAMES, owners=owners, truth=labels
    ).numpy()
    assert (got[labels == 0] == 2).all() and (got[labels == 1] == 2).all()
    assert (got[labels == 2] == 1).all()
    nothing = np.full_like(labels, -1)
    assert not predict_labels(Noisy(0), image, torch.eye(3), task, NAMES, truth=nothing).any()


def test_tasks_without_regions_keep_their_hash() -> None:
    plain = load_task("voc20@pixelclip")
    masks = load_task("voc20@pixelclip-masks")
    assert masks.regions == "class" and masks.hash != plain.hash
    assert replace(masks, id=plain.id, regions="none").hash == plain.hash
    assert plain.hash == "acd49e42cc3b978c7698765f2cd9dce24a3d9b1ddcef4357bfd0c35ea74b99b6"


def test_what_cannot_be_is_one_line(mini: Path, mini_task: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="regions go with background none"):
        Task(id="a@b", dataset=SCENES, regions="class", background="constant")
    with pytest.raises(FormatError, match="regions go with background none"):
        Task(id="a@b", dataset=SCENES, regions="class", largest_px=100)
    with pytest.raises(FormatError, match="regions"):
        Task(id="a@b", dataset=SCENES, regions="boxes")  # type: ignore[arg-type]
    task = replace(load_task(mini_task), regions="class")
    with pytest.raises(ValueError, match="truth must be given"):
        predict_labels(Noisy(0), torch.zeros(3, 8, 8), torch.eye(3), task, NAMES)
    with pytest.raises(UsageError, match="label maps are scored as they are"):
        score_folder(tmp_path, task, root=mini)
