"""A PixelCLIP run at a tiny scale: its report, resuming, photographs, errors in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from integration.errors import RecipeError
from integration.pixelclip import tuning
from integration.pixelclip.recipe import load_pixelclip_recipe
from integration.pixelclip.scenes import RegionsConfig, write_photos
from integration.pixelclip.stages import pixelclip_stages
from integration.pixelclip.tuning import untuned_model
from integration.pixelclip.worlds import photos_world
from integration.reproduce import main
from maskcluster import load_checkpoint, read_config
from segbench import ScenesDataset

TINY = """
summary = "pixelclip-mini, a thousand times smaller"
chosen = ["pixelclip", "no-clustering", "dino"]
[scenes]
curator = 60
train = 40
val = 8
size_px = 32
[curator]
embed_dim = 16
steps = 4
batch = 16
checkpoint_every = 2
min_crop = 0.5
[curator.vision_cfg]
image_size = 32
patch_size = 8
width = 24
layers = 2
head_width = 12
[curator.text_cfg]
context_length = 24
vocab_size = 49408
width = 16
heads = 2
layers = 1
[vocabulary]
min_count = 3
[masks]
dino_clusters = 4
dino_short_px = 32
superpixels = 6
"""
TRAIN = """
[train]
log_every = 2
checkpoint_every = 2
[train.model]
decoder_width = 4
[train.cluster]
clusters = 4
tokens = 2
[train.views]
shortest_px = 32
longest_px = 32
crop_px = 32
image_px = 32
mask_px = 32
[train.optim]
total_steps = 4
[train.data]
batch = 8
workers = 0
[arms.pixelclip]
about = "words of an archive"
words = "archive"
[arms.no-clustering]
about = "own features"
[arms.no-clustering.train.cluster]
targets = "masks"
[arms.dino]
about = "k-means, words of captions"
masks = "dino"
words = "captions"
[arms.superpixels]
about = "SLIC"
masks = "superpixels"
[evaluate]
overlays = 1
"""
PHOTOS = """
summary = "photographs"
chosen = ["superpixels", "plain"]
[photos]
images = "pictures"
masks = "json"
names = "sky,grass,cat"
architecture = "local-dir:{clip}"
pretrained = ""
[arms.plain]
about = "their own masks"
"""


def reproduce(recipe: Path, out: Path, *options: str) -> int:
    return main(["pixelclip", "--recipe", str(recipe), "--out", str(out), *options])


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY + TRAIN)
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of three arms and two seeds."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert reproduce(recipe, out, "--seeds", "2") == 0
    return out


@pytest.mark.slow
def test_the_report_has_every_arm_before_and_after(whole: Path) -> None:
    found = results(whole)
    assert set(found["metrics"]) == {"pixelclip", "no-clustering", "dino"}
    assert len(found["clip_miou"]) == len(found["no_clustering_miou"]) == 2
    first = [found["pixelclip_miou"][i] - found["clip_miou"][i] for i in range(2)]
    assert found["gains"]["pixelclip"] == pytest.approx(first)
    assert found["clip_miou"] == found["untuned"]["pixelclip"]["miou"]
    assert set(found["clusters"]) == {"pixelclip", "dino"}
    report = (whole / "report.md").read_text()
    assert "more than twice the standard error" in report
    assert "Clusters of dino." in report
    assert "--data" not in found["command"] and "--recipe tiny.toml " in found["command"]
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png;base64,") > 8
    assert f"<pre>{found['command']}</pre>" in page
    for part in (
        "Seconds per stage.",
        "Loss and clusters in use",
        "Before and after",
        "Environment",
    ):
        assert part in page
    assert "Archives and their witnesses" in page  # of the words that prompts start from


@pytest.mark.slow
def test_a_second_call_does_nothing_again(
    recipe: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole / "stages").rglob("*")}
    assert reproduce(recipe, whole, "--seeds", "2") == 0
    assert {p: p.stat().st_mtime_ns for p in (whole / "stages").rglob("*")} == before
    assert "running" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_breaks_in_training_goes_on_to_equal_numbers(
    recipe: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    work = tuning.train  # type: ignore[attr-defined]  # imported there

    def broken(*arguments: Any, **options: Any) -> None:
        work(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", broken)
        assert reproduce(recipe, out, "--seeds", "2", "--from", "train-dino-1") == 4
    assert "goes on from here" in capsys.readouterr().err
    assert reproduce(recipe, out, "--seeds", "2") == 0
    assert results(out)["metrics"] == results(whole)["metrics"]


@pytest.mark.slow
def test_photographs_are_tuned_on_scored_and_drawn(whole: Path, tmp_path: Path) -> None:
    (clip,) = (whole / "stages").glob("clip-0-*")
    data = tmp_path / "data"
    write_photos(ScenesDataset(split="train", count=12, size_px=32), RegionsConfig(), data)
    (data / "photos").rename(data / "pictures")
    (data / "masks").rename(data / "json")
    path = tmp_path / "photos.toml"
    path.write_text(PHOTOS.format(clip=clip) + TRAIN)
    assert reproduce(path, tmp_path / "out", "--data", str(data)) == 0
    found = results(tmp_path / "out")
    assert set(found["metrics"]) == {"superpixels", "plain"}
    assert found["command"].endswith("--seeds 1 --arms superpixels,plain --data DATA")
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<pre>{found['command']}</pre>" in page
    for part in ("regions", "superpixels"):  # a contact sheet of each source of masks
        assert f"<h3>{part}</h3>\n<figure><img" in page
    assert str(tmp_path) not in page
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Clusters of plain." in report
    assert "grass 0." in report or "| grass |" in report


def fingerprints(recipe: Path, data: Path) -> dict[str, str]:
    plan = load_pixelclip_recipe(str(recipe))
    return {one.name: one.fingerprint for one in pixelclip_stages(plan, (0, 1), data / "out", data)}


@pytest.fixture
def few(tmp_path: Path) -> tuple[Path, Path]:
    """A recipe of photographs and its data: three pictures with masks, one that is scored."""
    data, path = tmp_path / "data", tmp_path / "photos.toml"
    write_photos(ScenesDataset(split="train", count=3, size_px=32), RegionsConfig(), data)
    (data / "photos").rename(data / "pictures")
    (data / "masks").rename(data / "json")
    scored = data / "coco128_panoptic"
    for kind, mode in (("images", "RGB"), ("semantic_masks", "L")):
        (scored / kind / "val").mkdir(parents=True)
        Image.new(mode, (8, 6)).save(scored / kind / "val" / "1.png")
    (scored / "labels.tsv").write_text("mask_value\tname\n0\tnothing\n1\tsky-other\n2\tdog\n")
    task = 'task = "coco128_panoptic133@whole"\n'
    path.write_text(PHOTOS.format(clip="x") + TRAIN + task)
    return path, data


def test_other_names_are_another_naming_and_nothing_else(few: tuple[Path, Path]) -> None:
    recipe, data = few
    before = fingerprints(recipe, data)
    recipe.write_text(recipe.read_text().replace("sky,grass,cat", "sky,grass,dog"))
    after = fingerprints(recipe, data)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"name-superpixels", "name-plain", "report"}


def test_other_scored_files_are_another_evaluation(few: tuple[Path, Path]) -> None:
    recipe, data = few
    before = fingerprints(recipe, data)
    Image.new("RGB", (99, 98)).save(data / "coco128_panoptic" / "images" / "val" / "1.png")
    after = fingerprints(recipe, data)
    changed = {name for name in before if before[name] != after[name]}
    arms = {f"evaluate-{arm}-{seed}" for arm in ("superpixels", "plain") for seed in (0, 1)}
    assert changed == arms | {"untuned-0", "untuned-1", "report"}


def test_names_and_masks_may_be_left_out_where_others_say_them(few: tuple[Path, Path]) -> None:
    recipe, data = few
    recipe.write_text(recipe.read_text().replace('names = "sky,grass,cat"\n', ""))
    plan = load_pixelclip_recipe(str(recipe))
    assert plan.photos is not None
    assert photos_world(plan, plan.photos, data).names == ("sky", "dog")  # as the task asks
    recipe.write_text(recipe.read_text().replace('masks = "json"\n', ""))
    with pytest.raises(RecipeError, match=r"photos\.masks must name the folder"):
        load_pixelclip_recipe(str(recipe))
    recipe.write_text(recipe.read_text().replace('["superpixels", "plain"]', '["superpixels"]'))
    assert load_pixelclip_recipe(str(recipe)).sources == {"superpixels"}


@pytest.mark.slow
def test_results_may_be_moved(whole: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(whole, tmp_path / "moved"))
    (run,) = moved.glob("stages/train-pixelclip-0-??????????")
    named = Path(read_config(run).model.architecture.removeprefix("local-dir:"))
    (clip,) = moved.glob("stages/clip-0-??????????")
    assert named.resolve() == clip.resolve()
    tower = load_checkpoint(run).clip.state_dict()
    assert tower.keys() == untuned_model(run).clip.state_dict().keys()


def test_random_weights_are_of_the_seed(few: tuple[Path, Path]) -> None:
    recipe, data = few
    text = recipe.read_text().replace("local-dir:x", "ViT-S-32")
    recipe.write_text(text.replace('pretrained = ""', 'pretrained = "random"'))
    plan = load_pixelclip_recipe(str(recipe))
    assert plan.photos is not None
    clips = [photos_world(plan, plan.photos, data).clip(seed) for seed in (0, 1)]
    assert [clip.seed for clip in clips] == [0, 1]
    assert clips[0].name != clips[1].name


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--arms", "sam"], 2, "unknown arm 'sam'; there are pixelclip"),
        (["--seeds", "0"], 2, "--seeds must be >= 1, got 0"),
        (["--data", "x"], 2, "draws its own pictures: leave --data out"),
        (["--from", "nothing"], 2, "no stage is called 'nothing'; there are captions, photos"),
    ],
)
def test_what_cannot_be_is_one_line(
    recipe: Path,
    tmp_path: Path,
    options: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reproduce(recipe, tmp_path / "out", *options) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_photographs_that_are_not_there_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photos.toml"
    path.write_text(PHOTOS.format(clip="x") + TRAIN)
    assert reproduce(path, tmp_path / "out") == 2
    assert "say where with --data FOLDER" in capsys.readouterr().err
    assert reproduce(path, tmp_path / "out", "--data", str(tmp_path)) == 3
    assert "pictures: no such folder" in capsys.readouterr().err
    path.write_text(path.read_text().replace('"superpixels", "plain"', '"pixelclip"'))
    assert reproduce(path, tmp_path / "out", "--data", str(tmp_path)) == 2
    assert "arm pixelclip takes words from captions" in capsys.readouterr().err


def test_stages_are_listed_without_running(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(recipe, tmp_path / "out", "--dry-run") == 0
    told = capsys.readouterr().out
    for name in ("captions", "clip-0", "masks-dino-0", "words-archive-0", "name-dino", "report"):
        assert f"to run  {name}" in told
    assert not (tmp_path / "out").exists()
