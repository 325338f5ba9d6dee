"""Several processes learn what one would: losses, clusters, weights; and torchrun."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskcluster.masks.sa1b import write_sa1b
from maskcluster.recipe import recipe_text

HERE = Path(__file__).parent
SCRIPT = HERE / "ranks_masks_script.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
case = SimpleNamespace(**runpy.run_path(str(HERE / "training_case.py")))


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
def test_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    """W ranks of b photographs against one of W b, in float64, over three steps of AdamW."""
    (alone,) = run_ranks(1, tmp_path)
    assert alone["full"]["seen"]["images_without_masks"] > 0
    for rank in run_ranks(2, tmp_path):
        for name, want in alone.items():
            found = rank[name]
            assert found["seen"] == want["seen"]
            assert found["loss"] == pytest.approx(want["loss"], rel=1e-12), name
            assert found["norm"] == pytest.approx(want["norm"], rel=1e-10), name
            for mine, its in zip(found["log"], want["log"], strict=True):
                assert mine.pop("cluster_counts") == its["cluster_counts"]
                for figure, value in mine.items():
                    assert value == pytest.approx(its[figure], rel=1e-7, abs=1e-9), figure
            for key, value in want["weights"].items():
                torch.testing.assert_close(
                    found["weights"][key], value, rtol=1e-9, atol=1e-10, msg=f"{name}, {key}"
                )


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_torchrun_learns_what_one_process_learns(tmp_path: Path) -> None:
    """From the command line, with a CLIP model and masks as they lie on disk."""
    folder = tmp_path / "clip"
    case.write_clip(folder)
    config = case.changed(
        model={"architecture": f"local-dir:{folder}", "pretrained": ""}, optim={"total_steps": 5}
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(config))
    photos, masks, _ = case.shapes(tmp_path / "photos", 8)
    for key in masks.keys():  # noqa: SIM118  # a mask source, in its order
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_sa1b(tmp_path / "masks" / f"{key}.json", masks[key], file_name=f"{key}.png")

    def command(out: str) -> list[str]:
        places = [str(recipe), str(photos), str(tmp_path / "masks"), str(tmp_path / out)]
        return ["-m", "maskcluster", "train", *places, "--device", "cpu"]

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for words in (command("one"), [*torchrun, *command("two")]):
        done = subprocess.run(
            [sys.executable, *words], env=ENVIRONMENT, capture_output=True, text=True,
            check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("checkpoint\t") == 1  # the first rank speaks
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
