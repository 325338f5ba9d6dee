"""Calls of all kernels at the sizes they are made for, for `hopper.py`."""

import torch

from groupvit.ops.group_assign.kernel import group_assign_backward_triton, group_assign_triton
from groupvit.ops.multi_label_contrastive.kernel import (
    two_way_logsumexp_backward_triton,
    two_way_logsumexp_triton,
)
from groupvit.ops.segment_decode.kernel import upsample_argmax_triton
from groupvit.ops.uniform.kernel import uniform_triton


def run() -> None:
    """Both stages of the published model at 224 px and the first at 448 px; losses of a batch."""
    noise = torch.tensor([1, 2])
    uniform_triton(noise, 3, 4, 100)
    upsample_argmax_triton(torch.rand(1, 8, 28, 28), torch.zeros(1, 8, dtype=torch.int32), 448, 448)
    for dtype in (torch.float32, torch.bfloat16):
        for groups, tokens in ((64, 196), (8, 64), (64, 784)):
            query, points = (
                torch.rand(2, groups, 384).to(dtype),
                torch.rand(2, tokens, 384).to(dtype),
            )
            out = group_assign_triton(query, torch.rand(2, groups), points, noise, 1, 0.05, 1.0)
            up = (torch.rand_like(out[0]), torch.rand_like(out[1]))
            group_assign_backward_triton(*up, query, points, *out, 0.05)
    rows, columns = torch.rand(1024, 256).bfloat16(), torch.rand(3072, 256).bfloat16()
    sums = two_way_logsumexp_triton(rows, columns, torch.tensor(5.0))
    two_way_logsumexp_backward_triton(*sums, rows, columns, torch.tensor(5.0), *sums)


if __name__ == "__main__":
    run()
