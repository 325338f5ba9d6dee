"""What to watch while a GroupViT learns: whether groups are used, and whether the loss is sound."""

import math
from collections import deque
from statistics import median

import torch
from torch import Tensor

from groupvit.config import DataConfig, OptimConfig
from groupvit.errors import DivergedError
from groupvit.model.groupvit import GroupViT

IMAGES = 64
"""Images of a batch whose groups are looked at."""

WINDOW = 20
"""Lines of the log over which a loss is judged."""
ABOVE_CHANCE = 1.5
"""Share of the loss of a model that knows nothing above which a run has diverged."""
LEARNT, FORGOTTEN = 0.8, 0.99
"""A run whose loss was below the first share of chance and is above the second has collapsed."""


@torch.no_grad()
def group_statistics(model: GroupViT, images: Tensor) -> dict[str, float]:
    """How sure assignments are and how many groups they use, stage by stage.

    Args:
        model: in training mode; its image tower is run in evaluation mode and put back.
        images: (B, 3, H, W) on any device; the first `IMAGES` are looked at.

    Returns:
        For stage s from 1: `assignment_entropy_s`, mean entropy of a token's groups over that of a
        uniform choice, in [0, 1]; `groups_used_s`, mean number of groups that own a token of an
        image; `groups_alive_s`, number of groups that own any token of any image.
    """
    tower = model.vision
    tower.eval()
    seen = images[:IMAGES].to(model.logit_scale.device)
    maps = tower.forward(seen).assignments  # not compiled: rare, and another mode
    tower.train()
    found: dict[str, float] = {}
    for stage, soft in enumerate(maps, 1):
        groups = soft.shape[1]
        entropy = torch.special.entr(soft).sum(dim=1).mean() / max(math.log(groups), 1e-9)
        owned = torch.zeros_like(soft[:, :, 0]).scatter(1, soft.max(dim=1).indices, 1.0)  # (B, G)
        found[f"assignment_entropy_{stage}"] = float(entropy)
        found[f"groups_used_{stage}"] = float(owned.sum(dim=1).mean())
        found[f"groups_alive_{stage}"] = float(owned.amax(dim=0).sum())
    return found


def chance_loss(data: DataConfig) -> float:
    """Loss of a model for which all similarities are equal."""
    batch, labels = data.batch, data.concepts
    caption = math.log(batch)
    return caption + ((math.log(batch * labels) + math.log(batch)) / 2 if labels else 0)


class LossWatch:
    """Stops a run that has diverged or collapsed, over the last lines of its log.

    Args:
        data: of the recipe.
        optim: of the recipe; nothing is judged during its warm-up.
    """

    def __init__(self, data: DataConfig, optim: OptimConfig) -> None:
        self._chance, self._warmup = chance_loss(data), optim.warmup_steps
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._best = math.inf

    def see(self, loss: float, step: int) -> None:
        """Take in a line of the log.

        Raises:
            DivergedError: the median of the last lines is above the loss of a model that knows
                nothing, or back near it after it had been well below.
        """
        self._recent.append(loss)
        if step <= self._warmup or len(self._recent) < WINDOW:
            return
        recent, chance = median(self._recent), self._chance
        self._best = min(self._best, recent)
        if recent > ABOVE_CHANCE * chance:
            what = f"is above {chance:.2f}, that of a model that knows nothing"
        elif self._best < LEARNT * chance and recent > FORGOTTEN * chance:
            what = f"was {self._best:.2f} and is near {chance:.2f}, that of knowing nothing, again"
        else:
            return
        raise DivergedError(
            f"diverged at step {step}: over the last {WINDOW} lines of the log the loss "
            f"({recent:.2f}) {what}; earlier checkpoints are kept: train in another folder with a "
            "lower optim.lr or more optim.warmup_steps"
        )
