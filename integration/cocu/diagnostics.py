"""What groups catch, before anybody names them."""

from pathlib import Path

import numpy as np
import torch

from groupvit import GroupViTSegmenter
from segbench import Task, open_dataset

IMAGES = 100


def grouping_purity(
    segmenter: GroupViTSegmenter, task: Task, root: Path | None, *, images: int = IMAGES
) -> float:
    """Share of labelled pixels that have the majority label of their group.

    1 means that no group mixes classes; it says nothing about names. Images are taken at their own
    size, without the protocol's windows.

    Args:
        segmenter: the model.
        task: whose data set is looked at.
        root: of the data; None for procedural data.
        images: how many, from the first.
    """
    dataset = open_dataset(task.dataset, root)
    bank = torch.nn.functional.normalize(segmenter.encode_text(["anything"]), dim=-1)  # (1, D)
    pure = labelled = 0
    for index in range(min(images, len(dataset))):
        example = dataset[index]
        pixels = torch.tensor(example.image).permute(2, 0, 1).float() / 255  # (3, H, W)
        groups, _ = segmenter.groups(pixels, bank)
        known = example.labels >= 0  # (H, W)
        joint = groups.cpu().numpy()[known] * len(dataset.names) + example.labels[known]
        counts = np.bincount(joint, minlength=(int(groups.max()) + 1) * len(dataset.names))
        pure += int(counts.reshape(-1, len(dataset.names)).max(axis=1).sum())
        labelled += int(known.sum())
    return pure / max(labelled, 1)
