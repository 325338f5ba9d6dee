"""A run that is killed at random moments, until it ends; and one that is not.

    python kill_masks_script.py FOLDER KILLS SEED

Runs are children of this process, so that libraries are loaded once. Prints `killed` and the
checkpoints that are there for every kill, and `same` or `different` for every run that ended.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from maskcluster.training.checkpoint import find_checkpoints
from maskcluster.training.train import train

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))
CONFIG = case.changed(optim={"total_steps": 100}, log_every=3, checkpoint_every=4)
CLOCK = {"images_per_s", "masks_per_s"}


def start(folder: Path, run: Path) -> int:
    """Start the run in a child; the child's number."""
    child = os.fork()
    if child:
        return child
    photos, masks, _ = case.shapes(folder / "photos")
    data = case.MaskedPhotos(photos, masks, CONFIG.views)
    train(CONFIG, data, run, device=torch.device("cpu"), clip=case.tiny_clip())
    os._exit(0)


def outcome(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """Hash of the last weights, and the log without what depends on the clock."""
    weights = find_checkpoints(run)[-1].folder / "model.safetensors"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
    return sha256(weights.read_bytes()).hexdigest(), kept


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    case.dataset(folder)[0, 0]  # imports what loading needs
    case.tiny_clip()
    begin = time.monotonic()
    os.waitpid(start(folder, folder / "unbroken"), 0)
    seconds = time.monotonic() - begin
    want, draw = outcome(folder / "unbroken"), random.Random(seed)
    killed = runs = 0
    while True:
        run = folder / f"killed-{runs}"
        child = start(folder, run)
        if killed < kills:
            time.sleep(draw.uniform(0.02, 0.4) * seconds)
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
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
