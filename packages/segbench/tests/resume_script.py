"""Evaluates a slow model; run alone or by torchrun.

python resume_script.py TASK ROOT OUT SECONDS
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segbench import evaluate, joined


class SlowSegmenter:
    """Takes its time; its scores depend on the image alone."""

    name = "slow"
    fingerprint = "1"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.eye(len(prompts), 8) + 1

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        time.sleep(self.seconds)
        grid = torch.nn.functional.adaptive_avg_pool2d(image, 6)  # (3, 6, 6)
        return torch.einsum(
            "kc,chw->khw", bank[:, :3], grid * torch.tensor([1, -2, 3])[:, None, None]
        )


def main(task: str, root: Path, out: Path, seconds: float) -> None:
    with joined(torch.device("cpu")) as device:
        evaluate(SlowSegmenter(seconds), task, root=root, out=out, device=device)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
