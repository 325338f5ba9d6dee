"""Several processes learn what one would: losses, gradients, batch norm; torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).parent / "ranks_script.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run_ranks(world: int, folder: Path) -> list[dict[str, Any]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(folder)],
            env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for rank in ranks:
        _, said = rank.communicate(timeout=240)
        assert rank.returncode == 0, said
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.slow
def test_ranks_compute_what_one_process_does(tmp_path: Path) -> None:
    """W ranks of b pairs against one of W b, float64: both losses, with noise and drop path."""
    (alone,) = run_ranks(1, tmp_path)
    for world in (2, 4):
        for rank in run_ranks(world, tmp_path):
            for way, found in rank.items():
                for kind, values in found.items():
                    check_equal(values, alone[way][kind], f"{world} ranks, {way}, {kind}")


def check_equal(got: dict[str, Tensor], want: dict[str, Tensor], what: str) -> None:
    """To 1e-9 of each tensor, and 1e-12 of the largest where a tensor is a sum that cancels."""
    assert got.keys() == want.keys()
    largest = max(float(value.double().norm()) for value in want.values())
    for name, value in got.items():
        error = float((value - want[name]).double().norm())
        assert error <= 1e-9 * float(want[name].double().norm()) + 1e-12 * largest, (what, name)


RECIPE = """
log_every = 1
checkpoint_every = 4
[optim]
total_steps = 6
precision = "float32"
[model]
embed_dim = 16
projector_hidden = 24
[model.vision]
image_px = 32
patch_px = 8
width = 32
heads = 2
depths = [1, 1, 1]
group_tokens = [5, 3]
output_groups = [5, 3]
[model.text]
width = 32
layers = 1
heads = 2
[data]
batch = 4
concepts = 2
augment = "flip"
workers = 0
"""


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_torchrun_learns_what_one_process_learns(colour_shard: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    command = ["groupvit", "train", str(recipe), str(colour_shard), "--device", "cpu"]
    alone = [sys.executable, "-m", command[0], *command[1:4], str(tmp_path / "one"), *command[4:]]
    done = subprocess.run(alone, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", command[0], *command[1:4], str(tmp_path / "two"), *command[4:],
    ]  # fmt: skip
    done = subprocess.run(
        ranks, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint\t") == 1  # the first rank speaks
    # in float32 a token near a tie may choose another group, and later steps carry it on
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-3)
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
