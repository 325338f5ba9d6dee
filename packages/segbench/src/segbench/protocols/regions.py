"""Given masks: what is sought is their names alone (zero-shot mask classification)."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segbench.metrics.mask_accuracy import Regions, region_means
from segbench.protocols.inference import ScoreMap, WindowScores, resize_scores, take_classes
from segbench.protocols.task import Task

_AT_ONCE = 8
"""Queries whose scores are held at full size at a time."""


def name_regions(
    scores: ScoreMap, truth: npt.NDArray[np.integer], task: Task, owners: Tensor
) -> Tensor:
    """Paint every true mask with the class of the highest mean score in it.

        q_n = argmax_q mean over p in region n of score[q, p],    label[p] = owners[q_n]

    Scores are resized to the labels' resolution first. Where they are products of one feature a
    place with rows of a text bank this is the mean feature under the mask against those rows
    (PixelCLIP, arXiv:2409.19846, table 2).

    Args:
        scores: of every of the Q queries.
        truth: (H, W) true label ids, -1 where ignored.
        task: gives `regions`.
        owners: (Q,) int64, the label id that a query stands for.

    Returns:
        (H, W) int64 label ids on the device of `owners`, 0 where the truth is ignored. The first
        query wins a tie.
    """
    assert task.regions != "none"
    regions = Regions.of_labels(truth, int(truth.max(initial=0)) + 1, task.regions)
    labels = torch.zeros(truth.shape, dtype=torch.int64)  # (H, W)
    if len(regions.classes):
        means = region_means(regions, _planes(scores, regions.shape))  # (Q, n)
        names = owners.cpu()[torch.from_numpy(means.argmax(axis=0))]  # (n,)
        labels.view(-1)[torch.from_numpy(regions.pixel)] = names[torch.from_numpy(regions.owner)]
    return labels.to(owners.device)


def _planes(scores: ScoreMap, size: tuple[int, int]) -> Iterator[Tensor]:
    """(H, W) scores of one query after the other."""
    queries = scores.scores.shape[1] if isinstance(scores, WindowScores) else len(scores)
    for first in range(0, queries, _AT_ONCE):
        yield from resize_scores(take_classes(scores, slice(first, first + _AT_ONCE)), size).cpu()
