"""Train a tiny GroupViT on captions, or go on where it was stopped; seconds on one CPU core.

    hatch run python examples/train_groupvit.py [FOLDER]

The pairs are drawn by segbench; your own are tar shards of KEY.jpg and KEY.txt.
"""

import sys
from dataclasses import replace
from pathlib import Path

from groupvit import PairDataset, index_shards, load_recipe, train
from segbench import ScenesDataset, write_pairs

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/trained")
shards = write_pairs(ScenesDataset(split="train", count=200, size_px=48), folder / "pairs")

tiny = load_recipe("tiny")  # a recipe of the package; every field is described in its config.py
recipe = replace(
    tiny,
    data=replace(tiny.data, batch=8, workers=0),
    optim=replace(tiny.optim, total_steps=20, warmup_steps=5),
)

pairs, left_out = index_shards(shards, dataset="scenes")
print(f"{len(pairs)} pairs, {len(left_out)} left out")
dataset = PairDataset.from_config(pairs, recipe.data, recipe.model.vision.image_px)
result = train(recipe, dataset, folder / "run")
print(f"checkpoint: {result.checkpoint}")
