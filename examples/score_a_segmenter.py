"""Score a segmenter of your own on a benchmark, with an interval, and compare it with another.

    hatch run python examples/score_a_segmenter.py [OUT]

The benchmark is drawn; for a published one name its task and the folder of its data, such as
`evaluate(model, "voc21@groupvit", root=Path("data"))`. `segbench ls` lists all tasks.
"""

import sys
from pathlib import Path

import torch

from segbench import compare, evaluate


class Bright:
    """Takes the first half of the names for what is bright, the second for what is dark."""

    name = "bright"

    def __init__(self, turned: bool = False) -> None:
        self.sign = -1 if turned else 1
        self.name = "dark" if turned else "bright"

    def encode_text(self, prompts):
        return torch.linspace(1, -1, len(prompts))[:, None]  # (K, 1)

    def segment(self, image, bank):
        light = image.mean(dim=0) - 0.5  # (H, W) of an image (3, H, W) in [0, 1]
        return self.sign * bank[:, :, None] * light  # (K, H, W) scores, any resolution


out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/scored")
first, second = (
    evaluate(Bright(turned), "scenes@whole", limit=20, out=out / str(turned), overwrite=True)
    for turned in (False, True)
)
print(first.summary())
print(compare(first, second).summary())
