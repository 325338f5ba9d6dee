"""Classifies with a slow model; run alone or by torchrun.

python classify_script.py ROOT OUT SECONDS
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segbench import evaluate_classification, joined


class SlowClassifier:
    """Takes its time; its embeddings depend on the image and the words alone."""

    name = "slow"
    fingerprint = "1"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([[p.count(c) - 1.5 for c in "aeinrst"] for p in prompts])

    def encode_image(self, image: Tensor) -> Tensor:
        time.sleep(self.seconds)
        grid = torch.nn.functional.adaptive_avg_pool2d(image, (2, 4)).mean(0).flatten()  # (8,)
        return grid[:7] + 0.1 * torch.arange(-3, 4)


def main(root: Path, out: Path, seconds: float) -> None:
    with joined(torch.device("cpu")) as device:
        evaluate_classification(
            SlowClassifier(seconds), "imagenet1k@groupvit", root=root, out=out, device=device
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
