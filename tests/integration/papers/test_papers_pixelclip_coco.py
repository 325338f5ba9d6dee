"""PixelCLIP tuned with COCO-Stuff's masks: layouts, the check, the plan, every stage in small."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from integration.errors import RecipeError
from integration.papers.check import Finding, look
from integration.papers.pixelclip.check import needs_of
from integration.papers.pixelclip.mask_kinds import MASK_KINDS, find_coco_stuff
from integration.papers.pixelclip.photographs import write_sample
from integration.papers.pixelclip.plan import plan_masks
from integration.papers.pixelclip.recipe import (
    FOLDER,
    TASKS,
    MasksRecipe,
    load_masks_recipe,
    train_recipe,
)
from integration.papers.pixelclip.run import run_masks_paper
from integration.papers.plan import RATES, Machine, Step
from integration.papers.run import Options
from integration.reproduce import main
from maskcluster import LabelMaps, read_config

RECIPE = "pixelclip-ablation-coco-stuff"
KIND = MASK_KINDS["coco-stuff"]
MAPS = Path("coco/annotations/train2017")
IMAGES = Path("coco/images/train2017")
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


@pytest.fixture
def data(photographs: Path, tmp_path: Path) -> Path:
    """A data folder of COCO alone, which may be changed."""
    shutil.copytree(photographs / "coco", tmp_path / "data" / "coco")
    return tmp_path / "data"


def check(data: Path, recipe: str = RECIPE) -> Finding:
    """What is said of the photographs."""
    chosen = load_masks_recipe(recipe)
    findings = look(needs_of(chosen, chosen.mask_kind.find(data))[:1], data)
    return findings[0]


def test_every_kind_of_masks_can_be_named_and_no_other() -> None:
    assert get_args(get_type_hints(MasksRecipe)["masks"]) == tuple(MASK_KINDS)
    assert {kind.load_rate for kind in MASK_KINDS.values()} <= set(RATES)
    for kind in MASK_KINDS.values():
        assert (kind.read is None) == bool(kind.made_by) == (not kind.unit)


def test_the_recipe_is_that_of_sa1b_with_other_masks() -> None:
    ours, theirs = load_masks_recipe(RECIPE), load_masks_recipe("pixelclip-ablation-sa1b")
    assert train_recipe(ours, "pixelclip", 0) == train_recipe(theirs, "pixelclip", 0)
    assert (ours.tasks, ours.prompts, ours.arms) == (TASKS, ("single",), ("pixelclip",))


def test_photographs_are_counted_with_their_label_maps(data: Path) -> None:
    seen = check(data)
    assert (seen.name, seen.state, seen.images) == ("coco-stuff", "short", 6)
    assert "6 photographs with label maps; its training part has 118,287" in seen.found
    before = find_coco_stuff(data)
    assert (before.folder, before.masks) == (data / IMAGES, data / MAPS)
    (data / MAPS / "000000000009.png").unlink()
    assert "1 without label maps are left out" in check(data).found
    after = find_coco_stuff(data)
    assert len(after.files) == 5
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("root", ["", "data", "datasets"])
@pytest.mark.parametrize("images", ["images/train2017", "train2017"])
@pytest.mark.parametrize(
    ("home", "maps", "suffix"),
    [
        ("coco_stuff164k", "annotations/train2017", ".png"),
        ("coco", "annotations/train2017", "_labelTrainIds.png"),
        ("COCO", "stuffthingmaps/train2017", ".png"),
        ("", "annotations_detectron2/train2017", ".png"),
    ],
)
def test_every_layout_that_segbench_knows_is_found(
    tmp_path: Path, root: str, images: str, home: str, maps: str, suffix: str
) -> None:
    for folder, end in ((images, ".jpg"), (maps, suffix), (maps, "_instanceTrainIds.png")):
        path = tmp_path / root / home / folder / f"000000000009{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    found = find_coco_stuff(tmp_path)
    assert found.files == ("000000000009.jpg",)
    assert found.masks == tmp_path / root / home / maps
    assert found.masks_of(found.files[0]) == f"000000000009{suffix}"
    assert found.bytes == 14
    source = KIND.open(found, None)
    assert isinstance(source, LabelMaps)
    assert "000000000009" in source.keys()  # noqa: SIM118  # no mapping


def test_what_is_missing_is_named_with_the_way_to_get_it(data: Path) -> None:
    first = data / MAPS / "000000000009.png"
    Image.open(first, formats=["PNG"]).resize((32, 24), 0).save(first)
    assert "is 24 x 32, the photograph is 48 x 64" in check(data).found
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(first)
    assert "holds colours (mode RGB)" in check(data).found
    shutil.rmtree(data / MAPS)
    seen = check(data)
    assert (seen.state, seen.images) == ("missing", 118_287)
    assert f"in {data / IMAGES}; 6 have no label maps in {data / MAPS}" in seen.found
    assert "train2017.zip from images.cocodataset.org/zips" in seen.get
    assert "stuffthingmaps_trainval2017.zip" in seen.get
    shutil.rmtree(data / IMAGES)
    wanted = f"COCO-Stuff: no photographs with label maps in {data / IMAGES}"
    assert check(data).found == wanted
    (elsewhere := data / "datasets" / "coco-stuff" / "train2017").mkdir(parents=True)
    (elsewhere / "000000000009.jpg").touch()
    assert f"in {elsewhere}; 1 have no label maps in {elsewhere.parent}" in check(data).found
    with pytest.raises(RecipeError, match="reads COCO-Stuff: say where with --data"):
        run_masks_paper(RECIPE, Options())


def test_a_mask_is_a_class_or_a_connected_part(data: Path) -> None:
    photos = find_coco_stuff(data)
    whole = KIND.open(photos, None)["000000000013"]
    parts = MASK_KINDS["coco-stuff-components"].open(photos, None)["000000000013"]
    assert whole.areas.tolist() == [32 * 32 + 24 * 8, 8 * 8, 32 * 40]  # 1, 5 in a corner, 181
    assert len(parts) == 3
    labels = np.full((48, 64), 255, np.uint8)
    labels[4:8] = labels[20:30] = 7
    Image.fromarray(labels).save(data / MAPS / "000000000013.png")
    assert len(KIND.open(photos, None)["000000000013"]) == 1
    assert len(MASK_KINDS["coco-stuff-components"].open(photos, None)["000000000013"]) == 2


def train_step(masks: str, arm: str, machine: Machine) -> Step:
    recipe = replace(load_masks_recipe(RECIPE), masks=masks, arms=(arm,), tasks=TASKS[:1])  # type: ignore[arg-type]  # one of its names
    findings = [
        Finding(name=name, state="ok", found="", images=1000)
        for name in (recipe.mask_kind.folder, *recipe.tasks)
    ]
    steps = plan_masks(recipe, {arm: train_recipe(recipe, arm, 0)}, findings, (0,), machine)
    return next(step for step in steps if step.name.startswith("train-"))


def test_photographs_of_coco_load_at_a_rate_of_their_own() -> None:
    small, large = train_step("coco-stuff", "pixelclip", Machine(cores=1)), 1000
    assert small.seconds == pytest.approx(480_000 / RATES["masks_load_coco"].value)
    assert "masks_load_coco" in small.rates
    each = {
        masks: train_step(masks, "no-clustering", Machine(cores=large)).seconds
        for masks in ("coco-stuff", "coco-stuff-components", "sa1b")
    }
    assert each["coco-stuff"] < each["sa1b"] < each["coco-stuff-components"]  # type: ignore[operator]  # known


def stages(recipe: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Folders of a rehearsal's stages by name, as a dry run lists them."""
    options = Options(data=data, out=data / "out", dry_run=True, limit=4, tasks=TASKS[4])
    run_masks_paper(str(recipe), options)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "/stages/" in line]
    return {name: folder for *_, name, folder in lines}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe with a small CLIP, in the place of the real one."""
    (tmp_path / "base.toml").write_text(SMALL)
    text = (FOLDER / f"{RECIPE}.toml").read_text()
    monkeypatch.setattr("integration.papers.pixelclip.recipe.FOLDER", tmp_path)
    path = tmp_path / f"{RECIPE}.toml"
    path.write_text(text.replace("pixelclip-convnextb-sa1b", str(tmp_path / "base.toml")))
    return path


def test_parts_are_another_training_on_the_same_sample(
    photographs: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stages(recipe, photographs, capsys)
    other = tmp_path / "parts.toml"
    other.write_text(recipe.read_text().replace('"coco-stuff"', '"coco-stuff-components"'))
    parts = stages(other, photographs, capsys)
    assert list(whole) == list(parts)
    assert {name for name in whole if whole[name] == parts[name]} == {"sample-coco-stuff"}


def test_a_sample_has_photographs_and_maps_apart(data: Path, tmp_path: Path) -> None:
    photos = find_coco_stuff(data)
    write_sample(photos, 2, tmp_path / "sample")
    sample = photos.sampled(tmp_path / "sample")
    names = ["000000000009", "000000000010"]
    assert sorted(path.name for path in sample.folder.iterdir()) == [f"{n}.jpg" for n in names]
    assert list(KIND.open(sample, None).keys()) == names
    beside = MASK_KINDS["sa1b"].find(data)
    assert beside.sampled(tmp_path).masks == beside.sampled(tmp_path).folder


def test_every_stage_runs_and_stands_beside_the_paper(
    photographs: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["pixelclip", "--recipe", str(recipe), "--data", str(photographs), "--out", str(out)]
    given += ["--limit", "4", "--tasks", TASKS[4]]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "| masks of COCO-Stuff, labels removed (PixelCLIP, table 6) | 71.0 |" in said.out
    assert "| COCO-Stuff | 4 | 118,287 |" in said.out
    found: dict[str, Any] = json.loads((out / f"{RECIPE}-limit-4" / "results.json").read_text())
    assert found["photographs"] == 4
    (scores,) = found["scores"].values()
    assert 0 <= scores[TASKS[4]]["metrics"]["miou"] <= 1
    (train,) = (out / "stages").glob("train-pixelclip-0-*")
    assert read_config(train).optim.total_steps == 2
    manifest = json.loads((train / "checkpoint-00000002" / "checkpoint.json").read_text())
    assert manifest["seen"]["images"] == 4
    assert 4 <= manifest["seen"]["masks"] <= 12  # at most three of a photograph
    assert main(given) == 0
    assert "running" not in capsys.readouterr().err
