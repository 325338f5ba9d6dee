"""Finished runs in miniature: the stages of CoCu and of PixelCLIP that a page reads."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from integration.cocu.recipe import load_recipe
from integration.cocu.stages import scenes_stages
from integration.stage import run_stages
from maskcluster import ClusterConfig, ModelConfig, PixelCLIP, TrainConfig, ViewConfig, load_clip
from maskcluster.released.export import export
from maskcluster.training.checkpoint import save_checkpoint

SIZES = {
    "embed_dim": 20,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 12
    },
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


def done(folder: Path) -> Path:
    """A stage's folder, marked as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"name": folder.name, "seconds": 0.1}))
    return folder


@pytest.fixture(scope="session")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Roots of a run of CoCu and one of PixelCLIP, trained for a moment."""
    root = tmp_path_factory.mktemp("runs")
    cocu, pixelclip = root / "cocu-mini", root / "pixelclip-mini"
    recipe = replace(load_recipe(str(tiny)), arms=("baseline", "cocu"))
    stages = scenes_stages(recipe, [0], cocu)
    shown = [one for one in stages if not one.name.startswith(("evaluate", "report"))]
    run_stages(shown, cocu, stream=io.StringIO())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _write_pixelclip(pixelclip / "stages")
    return cocu, pixelclip


def _write_pixelclip(stages: Path) -> None:
    """A CLIP and a PixelCLIP that were never trained, as stages."""
    description, clip_folder = stages / "sizes", stages / "clip-0-0123456789"
    description.mkdir(parents=True)
    (description / "open_clip_config.json").write_text(json.dumps({"model_cfg": SIZES}))
    clip = load_clip(f"local-dir:{description}", "random")
    export(PixelCLIP(clip, None), clip_folder)
    config = TrainConfig(
        model=ModelConfig(architecture=f"local-dir:{clip_folder}", pretrained=""),
        cluster=ClusterConfig(clusters=3, tokens=2),
        views=ViewConfig(shortest_px=32, longest_px=64, crop_px=32, image_px=32, mask_px=32),
    )
    tuned = PixelCLIP.from_config(config.model, config.cluster)
    with torch.no_grad():
        for value in tuned.tower.visual.parameters():
            value.add_(0.1 * torch.randn_like(value))
    optimizer = torch.optim.AdamW(tuned.parameter_groups(config.optim))
    trained = stages / "train-pixelclip-0-0123456789"
    save_checkpoint(trained, tuned, optimizer, config, 1)
    done(clip_folder), done(trained)
