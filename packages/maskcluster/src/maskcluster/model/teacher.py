"""The momentum teacher: an average of the student over past steps."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from maskcluster.model.dense import DenseTower


class MomentumTeacher(nn.Module):
    """A copy of the image tower that follows it slowly (PixelCLIP, arXiv:2409.19846, sec. 3.2).

        theta' <- gamma theta' + (1 - gamma) theta

    for every parameter theta of the student; buffers are copied. It stays in evaluation mode, so
    stochastic depth of the student is not in its features, and it has no gradients.

    Args:
        student: the tower to start from.
        momentum: gamma in [0, 1); 0 makes the teacher the student of the last update.

    Raises:
        ValueError: `momentum` is out of range.
    """

    def __init__(self, student: DenseTower, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum
        self.tower = deepcopy(student).requires_grad_(False)
        self.tower.recompute = False
        self.train(False)

    def train(self, mode: bool = True) -> "MomentumTeacher":  # noqa: ARG002  # nn.Module's
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: DenseTower) -> None:
        """Move towards the student, in place."""
        follow = self._pairs(student.visual.parameters(), self.tower.visual.parameters())
        if follow:
            mine, theirs = map(list, zip(*follow, strict=True))
            torch._foreach_lerp_(mine, theirs, 1 - self.momentum)
        for own, its in zip(self.tower.visual.buffers(), student.visual.buffers(), strict=True):
            own.copy_(its)

    @staticmethod
    def _pairs(student: Iterator[Tensor], own: Iterator[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(teacher's, student's) tensors."""
        return [(mine, its.detach()) for mine, its in zip(own, student, strict=True)]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Dense features (B, D, h, w) of (B, 3, H, W) images; see `DenseTower`."""
        return self.tower(images)  # type: ignore[no-any-return]  # nn.Module
