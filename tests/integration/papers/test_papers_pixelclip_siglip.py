"""PixelCLIP on SigLIP: the recipe with a small model of its kind, from the folder to the table."""

import json
import runpy
from pathlib import Path

import pytest

from integration.reproduce import main
from maskcluster import load_recipe, read_config

ROOT = Path(__file__).parents[3]
RECIPE = "pixelclip-siglip-sa1b"
SMALL = """
[model]
architecture = "local-dir:siglip-small"
pretrained = ""
decoder_width = 4
[cluster]
clusters = 8
tokens = 2
[views]
shortest_px = 48
longest_px = 64
crop_px = 40
image_px = 48
mask_px = 32
[optim]
precision = "float32"
[data]
workers = 0
"""


def test_the_recipe_is_vit_b_16s_but_for_the_model() -> None:
    ours, clip = load_recipe(RECIPE), load_recipe("pixelclip-sa1b")
    assert (ours.model.architecture, ours.model.pretrained) == ("ViT-B-16-SigLIP", "webli")
    assert (ours.cluster, ours.views, ours.optim) == (clip.cluster, clip.views, clip.optim)
    assert (ours.data, ours.model.trainable) == (clip.data, clip.model.trainable)


def test_a_small_siglip_is_tuned_and_stands_beside_the_paper(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = runpy.run_path(str(ROOT / "packages/maskcluster/tests/siglip_case.py"))
    (data := tmp_path / "data").mkdir()
    for name in ("sa1b", "VOCdevkit"):
        (data / name).symlink_to(photographs / name)
    case["write_siglip"](data / "siglip-small")
    (tmp_path / "base.toml").write_text(SMALL)
    small = load_recipe(tmp_path / "base.toml")
    monkeypatch.setattr("integration.papers.pixelclip.recipe.load_base", lambda _: small)
    command = ["pixelclip", "--recipe", RECIPE, "--data", str(data), "--limit", "4"]
    out = tmp_path / "out"
    command += ["--out", str(out), "--tasks", "voc20@pixelclip"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "| SigLIP ViT-B/16 (PixelCLIP, table 4) | 46.8 |" in said
    assert "| PixelCLIP on SigLIP ViT-B/16 (PixelCLIP, table 4) | 72.3 |" in said
    found = json.loads((out / f"{RECIPE}-limit-4" / "results.json").read_text())
    assert list(found["scores"]) == ["clip, one template-0", "pixelclip, one template-0"]
    (run,) = (out / "stages").glob("train-pixelclip-0-*")
    assert read_config(run).model.architecture == "local-dir:siglip-small"

    (data / "siglip-small" / "tokenizer_config.json").unlink()
    assert main([*command, "--out", str(tmp_path / "other")]) == 3
    assert "no tokenizer_config.json of its tokenizer" in capsys.readouterr().err
