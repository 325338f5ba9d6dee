"""A batch spread over processes: gathered rows and batch norm over all of them.

Gradients follow from one rule. Every rank computes the loss of its own part of the global batch,
the loss of the batch is the mean over ranks, and what a rank gets back for rows it gave away is the
sum over the ranks that used them. Averaged over ranks (by `DistributedDataParallel`), the gradients
of parameters are those of the whole batch on one process.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from groupvit.precision import wide


def gather_rows(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Rows of all ranks, rank by rank.

    Args:
        rows: (n, ...), of one shape on all ranks.
        group: the ranks; None for a process alone.

    Returns:
        (W n, ...). The gradient of `rows` is the sum over ranks.
    """
    return rows if group is None else _Gather.apply(rows, group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        parts = rows.new_empty((group.size() * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(parts, rows.contiguous(), group=group)
        return parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(ctx.group.size())[ctx.group.rank()], None


class _Sum(torch.autograd.Function):
    """Sum over ranks; the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class BatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics are those of the rows of all ranks.

    PyTorch's `SyncBatchNorm` does this on GPUs only. The variance is computed from centred rows, in
    float32 at least, in a second sum.
    """

    group: ProcessGroup | None = None
    """The ranks; None for a process alone."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise (n, C) rows."""
        if self.group is None or not self.training:
            return super().forward(rows)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        wider = wide(rows)
        count = len(rows) * self.group.size()
        mean: Tensor = _Sum.apply(wider.sum(dim=0), self.group) / count  # (C,)
        centred = wider - mean  # (n, C)
        variance: Tensor = _Sum.apply(centred.square().sum(dim=0), self.group) / count  # (C,)
        with torch.no_grad():
            unbiased = variance * (count / max(count - 1, 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        normed = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normed.to(rows.dtype)
