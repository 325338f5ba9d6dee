"""Kills a training run over and over, and compares its end with that of an unbroken one.

    python kill_script.py SHARD FOLDER KILLS SEED

A server process that has imported everything forks a child for each start of the run, and ends it
with SIGKILL after a random time, until it has killed KILLS times. Prints the steps of the
checkpoints that each kill left and, whenever a run gets to its end, whether its weights and log are
the same.
"""

import json
import os
import random
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path

import torch

from groupvit import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    PairDataset,
    TextConfig,
    TrainConfig,
    VisionConfig,
    index_shards,
    train,
)
from groupvit.training.checkpoint import find_checkpoints

CONFIG = TrainConfig(
    optim=OptimConfig(total_steps=150, warmup_steps=5, precision="float32"),
    model=ModelConfig(
        vision=VisionConfig(
            image_px=32, patch_px=8, width=32, heads=2, depths=(1, 1, 1),
            group_tokens=(5, 3), output_groups=(5, 3),
        ),
        text=TextConfig(width=32, layers=1, heads=2),
        embed_dim=16,
        projector_hidden=24,
    ),
    data=DataConfig(batch=5, concepts=2, augment="strong", workers=0),
    log_every=3,
    checkpoint_every=4,
)  # fmt: skip


def dataset(shard: Path, run: Path) -> PairDataset:
    pairs, _ = index_shards([shard], dataset="toy", cache=run / "index")
    return PairDataset.from_config(pairs, CONFIG.data, 32)


def start(shard: Path, run: Path) -> int:
    """Start the run in a child; the child's number."""
    child = os.fork()
    if child:
        return child
    data = dataset(shard, run)
    train(CONFIG, data, run, device=torch.device("cpu"))
    os._exit(0)


def outcome(run: Path) -> tuple[str, list[dict[str, float]]]:
    """Hash of the last weights, and the log without what depends on the clock."""
    weights = find_checkpoints(run)[-1].folder / "model.safetensors"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]
    return sha256(weights.read_bytes()).hexdigest(), kept


def main(shard: Path, folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    dataset(shard, folder / "unbroken")[0, 0]  # imports what loading needs
    begin = time.monotonic()
    os.waitpid(start(shard, folder / "unbroken"), 0)
    seconds = time.monotonic() - begin
    want, draw = outcome(folder / "unbroken"), random.Random(seed)
    killed = runs = 0
    while True:
        run = folder / f"killed-{runs}"
        child = start(shard, run)
        if killed < kills:
            time.sleep(draw.uniform(0.02, 0.25) * seconds)
            os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            killed += 1
            print("killed", [c.step for c in find_checkpoints(run)])
            continue
        print("same" if outcome(run) == want else "different")
        runs += 1
        if killed >= kills:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
