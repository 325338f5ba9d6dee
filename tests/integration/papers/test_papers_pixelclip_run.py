"""PixelCLIP's own runs, real and small: true towers, SA-1B as it lies, every stage, resuming."""

import json
import math
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors import safe_open
from safetensors.torch import save_file

from integration.papers.pixelclip import tuning
from integration.papers.pixelclip.dino import DINO
from integration.papers.pixelclip.recipe import FOLDER, TASKS
from integration.reproduce import main
from maskcluster import MaskStore, load_checkpoint, load_clip, read_config

SMALL = """
checkpoint_every = 1
[model]
architecture = "local-dir:clip-small"
pretrained = ""
decoder_width = 4
[cluster]
clusters = 8
tokens = 2
[views]
shortest_px = 48
longest_px = 64
crop_px = 40
image_px = 32
mask_px = 32
[optim]
precision = "float32"
[data]
workers = 0
"""
VOC = ("--tasks", "voc20@pixelclip")

pytestmark = pytest.mark.slow


def command(recipe: Path, root: Path, out: Path, *options: str) -> list[str]:
    given = ["--recipe", str(recipe), "--data", str(root), "--out", str(out), "--limit", "4"]
    return ["pixelclip", *given, *options]


def results(out: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((out / f"{name}-limit-4" / "results.json").read_text()))


def stage(out: Path, name: str) -> Path:
    """The one folder of a stage."""
    (found,) = (out / "stages").glob(f"{name}-??????????")
    return found


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def recipe_on(base: str, name: str, folder: Path, more: str = "") -> Path:
    """A recipe of the paper on another recipe of maskcluster's."""
    (folder / "base.toml").write_text(base)
    text = (FOLDER / f"{name}.toml").read_text()
    (line,) = (each for each in text.splitlines() if each.startswith("base = "))
    path = folder / f"{name}.toml"
    path.write_text(more + text.replace(line, f'base = "{folder / "base.toml"}"'))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ablation's recipe with a small CLIP."""
    folder = tmp_path_factory.mktemp("small")
    return recipe_on(SMALL, "pixelclip-ablation-sa1b", folder)


@pytest.fixture(scope="module")
def whole(photographs: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of three arms on all five tasks."""
    out = tmp_path_factory.mktemp("whole")
    assert main(command(small, photographs, out, "--arms", "clip,pixelclip,names")) == 0
    return out


def test_vit_b_16_at_its_true_size_is_tuned_and_stands_beside_the_paper(
    root: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data := tmp_path / "data").mkdir()
    for name in ("sa1b", "VOCdevkit"):
        (data / name).symlink_to(photographs / name)
    (data / "clip-vit-b-16").symlink_to(root / "clip-vit-b-16")
    base = (files("maskcluster") / "recipes" / "pixelclip-sa1b.toml").read_text()
    for old, new in (  # few patches: width and depth are what costs memory, and what is published
        ("image_px = 320", "image_px = 64"),
        ("mask_px = 256", "mask_px = 64"),
        ("[data]", "[data]\nworkers = 0"),
    ):
        assert base.count(old) == 1
        base = base.replace(old, new)
    recipe = recipe_on(base, "pixelclip-sa1b", tmp_path)
    recipe.write_text(recipe.read_text().replace('["ensemble", "single"]', '["single"]'))
    out = tmp_path / "out"
    assert main(command(recipe, data, out, *VOC)) == 0
    said = capsys.readouterr().out
    assert "| PixelCLIP ViT-B/16 (PixelCLIP, table 4) | 83.1 |" in said
    assert "| CLIP ViT-B/16 (PixelCLIP, table 4) | 73.9 |" in said
    assert said.count("| difference |") == 2
    run = stage(out, "train-pixelclip-0")
    config = read_config(run)
    assert config.model.architecture == "ViT-B-16-quickgelu"
    assert (config.cluster.clusters, config.cluster.momentum) == (64, 0.999)
    with safe_open(run / "checkpoint-00000002" / "model.safetensors", "pt") as weights:
        tower = [name for name in weights.keys() if name.startswith("clip.visual.")]  # noqa: SIM118  # no mapping
        sizes = [weights.get_slice(name).get_shape() for name in tower]
    assert sum(math.prod(size) for size in sizes) == 86_192_640


def test_every_task_is_scored_before_and_after(
    whole: Path, small: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(whole, "pixelclip-ablation-sa1b")
    assert list(found["scores"]) == [
        f"{arm}, one template-0" for arm in ("clip", "pixelclip", "names")
    ]
    for scores in found["scores"].values():
        assert tuple(scores) == TASKS
        assert all(each["images"] == 1 for each in scores.values())
        assert all(0 <= each["metrics"]["miou"] <= 1 for each in scores.values())
    assert found["photographs"] == 4
    sample = stage(whole, "sample-sa1b") / "photographs"
    assert sorted(path.name for path in sample.rglob("*.json")) == [
        f"sa_{number}.json" for number in range(223750, 223754)
    ]
    assert read_config(stage(whole, "train-names-0")).cluster.names[0] == "person"
    report = (whole / "pixelclip-ablation-sa1b-limit-4" / "report.md").read_text()
    assert "| 171 names of COCO-Stuff (PixelCLIP, tables 3 and 6) | 19.5 | 17.7 |" in report

    given = command(small, photographs, whole, "--arms", "clip,pixelclip,names")
    assert main(given) == 0
    assert "running" not in capsys.readouterr().err  # all of it is up to date


def test_a_run_that_is_stopped_in_training_goes_on_to_equal_weights(
    whole: Path,
    small: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = command(small, photographs, out, "--arms", "pixelclip", *VOC)
    work = tuning.train  # type: ignore[attr-defined]  # imported there

    def broken(*arguments: Any, **options: Any) -> None:
        work(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", broken)
        assert main(given) == 4
    run = stage(out, "train-pixelclip-0")
    shutil.rmtree(run / "checkpoint-00000002")  # as if it was stopped after the first of two steps
    first = run / "checkpoint-00000001" / "model.safetensors"
    written_ns = first.stat().st_mtime_ns
    capsys.readouterr()
    assert main(given) == 0
    assert "up to date" in capsys.readouterr().err  # the sample
    assert first.stat().st_mtime_ns == written_ns  # it was not trained from scratch
    clip = load_clip(f"local-dir:{photographs / 'clip-small'}")
    ours = load_checkpoint(run, clip=clip).state_dict()
    ours = {name: value.clone() for name, value in ours.items()}
    theirs = load_checkpoint(stage(whole, "train-pixelclip-0"), clip=clip).state_dict()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_masks_of_dino_are_made_from_its_weights(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data := tmp_path / "data").mkdir()
    for entry in photographs.iterdir():
        (data / entry.name).symlink_to(entry)
    recipe = recipe_on(SMALL, "pixelclip-dino", tmp_path, "dino_clusters = 4\ndino_short_px = 64\n")
    given = command(recipe, data, tmp_path / "out", "--arms", "pixelclip", *VOC)
    assert main(given) == 3
    assert f"lacks 1 of 4 things in {data}: {DINO};" in capsys.readouterr().err
    (data / DINO).mkdir()
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    save_file(model.state_dict(), data / DINO / "model.safetensors")
    assert main(given) == 0
    store = MaskStore.open(stage(tmp_path / "out", "masks-dino") / "masks")
    assert list(store.keys()) == [
        *(f"sa_000020/sa_{number}" for number in (223750, 223751, 223752)),
        "sa_000021/sa_223753",
    ]
    masks = store["sa_000020/sa_223750"]
    assert sum(mask.area for mask in masks.masks) == 56 * 72  # they tile the photograph
    assert 1 < len(masks) <= 4
    found = results(tmp_path / "out", "pixelclip-dino")
    assert list(found["scores"]) == ["pixelclip-0"]


def test_two_ranks_tune_and_score_as_one_process_does(
    whole: Path,
    small: Path,
    photographs: Path,
    tmp_path: Path,
    on_two_ranks: Callable[..., str],
) -> None:
    said = on_two_ranks(command(small, photographs, tmp_path, "--arms", "clip,pixelclip", *VOC))
    assert said.count("# pixelclip-ablation-sa1b-limit-4") == 1  # of the first rank
    names = {folder.name for folder in (tmp_path / "stages").iterdir()}
    assert len(names) == 4 and names <= {folder.name for folder in (whole / "stages").iterdir()}
    alone, ranks = (losses(stage(out, "train-pixelclip-0")) for out in (whole, tmp_path))
    assert len(alone) == len(ranks) == 2
    assert ranks == pytest.approx(alone, rel=1e-5)
    before, after = (results(out, "pixelclip-ablation-sa1b")["scores"] for out in (whole, tmp_path))
    assert len(after) == 2
    for name, scores in after.items():
        (task,) = scores
        assert scores[task]["metrics"]["miou"] == pytest.approx(
            before[name][task]["metrics"]["miou"], abs=1e-3
        )
