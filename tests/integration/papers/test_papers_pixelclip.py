"""PixelCLIP's own recipes: maskcluster's constants, the check of SA-1B, the plan, the figures."""

import json
import shutil
import tomllib
import weakref
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from PIL import Image
from torch import nn

from integration.cocu.recipe import FOLDER as SCENES_FOLDER
from integration.errors import DataMissingError, RecipeError
from integration.papers.check import Finding, look
from integration.papers.launch import Ranks
from integration.papers.pixelclip.arms import ARMS, UNTUNED
from integration.papers.pixelclip.backbones import BACKBONES, clip_folder
from integration.papers.pixelclip.check import needs_of
from integration.papers.pixelclip.mask_kinds import MASK_KINDS
from integration.papers.pixelclip.plan import plan_masks, score_seconds
from integration.papers.pixelclip.recipe import (
    FOLDER,
    TASKS,
    TEMPLATES,
    base_config,
    build_masks_recipe,
    is_masks_recipe,
    limited,
    load_masks_recipe,
    train_recipe,
)
from integration.papers.pixelclip.run import run_masks_paper
from integration.papers.pixelclip.stages import MasksRun, masks_stages
from integration.papers.pixelclip.tuning import on_this_machine
from integration.papers.plan import RATES, Machine, Step
from integration.papers.recipe import FOLDER as PAIRS_FOLDER
from integration.papers.run import Options
from integration.papers.table import comparison, figures, published_rows
from integration.reproduce import main
from maskcluster import (
    DenseTower,
    MaskedPhotos,
    Sa1bFolder,
    UsageError,
    ViewConfig,
    load_recipe,
    recipe_names,
)
from segbench import load_task

RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))
ABLATION = "pixelclip-ablation-sa1b"


def values(**changes: Any) -> dict[str, Any]:
    """A recipe as plain values."""
    given = {"summary": "x", "source": "masks", "base": "pixelclip-sa1b", "masks": "sa1b"}
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_command_first_and_is_maskclusters(name: str) -> None:
    first = (FOLDER / f"{name}.toml").read_text().splitlines()[0]
    assert first.startswith(f"# hatch run reproduce pixelclip --recipe {name} --data ROOT")
    assert is_masks_recipe(name)
    recipe = load_masks_recipe(name)
    base = load_recipe(recipe.base)
    assert train_recipe(recipe, "pixelclip", 0) == base
    assert (base.optim.total_steps, base.data.batch) == (10_000, 48)
    named = (kind for kind in ("dino", "coco-stuff") if kind in name)
    assert recipe.masks == next(named, "sa1b")
    assert base.views.cutout_masks == (recipe.masks != "dino")


def test_every_published_training_of_maskcluster_has_a_recipe() -> None:
    used = {load_masks_recipe(name).base for name in RECIPES}
    assert {*used, "pixelclip-convnextb-names"} == set(recipe_names())  # those names are an arm


def test_an_arm_changes_one_thing() -> None:
    recipe = load_masks_recipe(ABLATION)
    assert {*recipe.arms, "ensemble"} == {*ARMS, "clip"}
    plain = asdict(train_recipe(recipe, "pixelclip", 0).cluster)
    for arm in recipe.trained:
        cluster = asdict(train_recipe(recipe, arm, 0).cluster)
        changed = {key for key in plain if cluster[key] != plain[key]}
        assert changed == {*ARMS[arm], *(["names"] if arm == "names" else [])}
    shipped = load_recipe("pixelclip-convnextb-names")
    assert train_recipe(recipe, "names", 0) == shipped
    seeded = train_recipe(recipe, "pixelclip", 3)
    assert (seeded.seed, seeded.data.seed) == (3, 3)


def test_tasks_are_the_papers_at_the_side_that_the_tower_trains_with() -> None:
    vit, convnext = load_masks_recipe("pixelclip-sa1b"), load_masks_recipe(ABLATION)
    assert vit.load_tasks() == [load_task(name) for name in TASKS]
    assert {task.square_px for task in convnext.load_tasks()} == {640}
    named = load_masks_recipe("pixelclip-masks-convnextb")
    assert {task.regions for task in named.load_tasks()} == {"class"}
    for plain, masks in zip(convnext.load_tasks("ensemble"), named.load_tasks(), strict=True):
        assert replace(masks, id=plain.id, summary=plain.summary, regions="none") == plain
    single = vit.load_tasks("single")[0]
    assert replace(single, templates=TEMPLATES["ensemble"]) == vit.load_tasks()[0]
    assert single.hash != vit.load_tasks()[0].hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": "sam"}, "masks must be one of sa1b, dino, coco-stuff, coco-stuff-components"),
        ({"base": "pixelclip-b"}, "base: pixelclip-b: no such file, and no recipe of the package"),
        ({"arms": ["sam"]}, "unknown arms 'sam'; there are clip, clip-value-path, pixelclip"),
        ({"arms": []}, "arms must be different ones, got []"),
        ({"prompts": ["single", "single"]}, "prompts must be different ones"),
        ({"prompts": ["double"]}, "prompts must be"),
        ({"tasks": ["voc21@pixelclip"]}, "voc21"),
        ({"dino_clusters": 0}, "needs dino_clusters >= 1"),
        ({"base": None}, "needs base"),
        ({"mask": "sa1b"}, "did you mean 'masks'?"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_masks_recipe(values(**changes), "mine")
    assert message in str(caught.value)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_clip_is_refused_unless_a_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "base.toml"
    path.write_text('[model]\narchitecture = "ViT-L-14"\npretrained = "openai"\n')
    with pytest.raises(RecipeError, match="tunes ViT-L-14; there are ViT-B-16-quickgelu"):
        build_masks_recipe(values(base=str(path)), "mine")
    path.write_text('[model]\narchitecture = "local-dir:mine"\npretrained = ""\n')
    recipe = build_masks_recipe(values(base=str(path)), "mine")
    assert clip_folder(base_config(recipe), tmp_path) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("limit", "photos", "ranks", "batch", "steps"),
    [
        (4, 4, 1, 2, 2),
        (16, 16, 1, 4, 4),
        (64, 6, 1, 2, 3),
        (16, 99, 1, 4, 4),
        (4, 4, 2, 2, 2),
        (16, 16, 3, 3, 5),
        (16, 16, 8, 8, 2),
        (999, 999, 1, 48, 20),
    ],
)
def test_a_rehearsal_is_one_pass_in_small_batches(
    limit: int, photos: int, ranks: int, batch: int, steps: int
) -> None:
    config = train_recipe(load_masks_recipe("pixelclip-sa1b"), "pixelclip", 0)
    small = limited(config, photos, limit, ranks)
    assert (small.data.batch, small.optim.total_steps) == (batch, steps)
    assert (small.model, small.cluster, small.views) == (
        config.model, config.cluster, config.views,
    )  # fmt: skip


@pytest.mark.parametrize(("limit", "photos", "ranks", "batch"), [(64, 1, 1, 2), (4, 99, 8, 8)])
def test_a_rehearsal_on_fewer_photographs_than_a_batch_is_refused(
    limit: int, photos: int, ranks: int, batch: int
) -> None:
    config = train_recipe(load_masks_recipe("pixelclip-sa1b"), "pixelclip", 0)
    said = f"needs {batch} photographs on {ranks} ranks, has {min(limit, photos)}: raise --limit"
    with pytest.raises(RecipeError, match=said):
        limited(config, photos, limit, ranks)


def test_an_unknown_recipe_lists_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pixelclip", "--recipe", "pixelclip-sam"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(name in said for name in [*RECIPES, "pixelclip-mini"])
    assert main(["cocu", "--recipe", "cocu-all"]) == 2
    said = capsys.readouterr().err
    known = [path.stem for folder in (SCENES_FOLDER, PAIRS_FOLDER) for path in folder.glob("*")]
    assert all(name in said for name in known)
    assert main(["pixelclip", "--tasks", "voc20@pixelclip"]) == 2
    assert "pixelclip-mini is none" in capsys.readouterr().err


def found(recipe: str, root: Path) -> dict[str, Finding]:
    chosen = load_masks_recipe(recipe)
    photos = chosen.mask_kind.find(root)
    return {each.name: each for each in look(needs_of(chosen, photos), root)}


@pytest.fixture
def bare(photographs: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, with a CLIP that is a configuration alone."""
    root = Path(shutil.copytree(photographs, tmp_path / "data"))
    for known in BACKBONES.values():
        (root / known.folder).mkdir()
        described = {"embed_dim": known.embed_dim, "quick_gelu": known.quick_gelu}
        text = json.dumps({"model_cfg": described})
        (root / known.folder / "open_clip_config.json").write_text(text)
        for file in (known.weights, *known.tokenizer):
            (root / known.folder / file).write_bytes(b"weights")
    (root / "dino-vit-s-16").mkdir()
    (root / "dino-vit-s-16" / "model.safetensors").write_bytes(b"weights")
    return root


def test_every_recipe_is_checked_and_planned_without_writing(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for name in RECIPES:
        run_masks_paper(name, Options(data=bare, out=out, dry_run=True))
        said = capsys.readouterr().out
        recipe = load_masks_recipe(name)
        assert all(f"train-{arm}-0" in said for arm in recipe.trained)
        assert all(f"evaluate-{arm}-0" in said for arm in recipe.arms)
        assert "missing" not in said
        assert "ESTIMATES" in said
        assert said.count("to run") == said.count("/stages/")
        assert ("masks-dino" in said) == (recipe.masks == "dino")
    assert not out.exists()


def test_sa1b_is_counted_with_the_masks_beside_it(bare: Path) -> None:
    seen = found("pixelclip-sa1b", bare)
    assert (seen["sa1b"].state, seen["sa1b"].images) == ("short", 6)
    assert "2 folders" in seen["sa1b"].found
    assert "6 photographs with JSON; the published run had some 500,000" in seen["sa1b"].found
    assert "QuickGELU" in seen["clip-vit-b-16"].found
    (bare / "sa1b" / "sa_000020" / "sa_223750.json").unlink()
    assert "1 without JSON are left out" in found("pixelclip-sa1b", bare)["sa1b"].found
    assert found("pixelclip-dino", bare)["sa1b"].images == 6  # which needs no JSON
    before = MASK_KINDS["sa1b"].find(bare)
    path = bare / "sa1b" / before.files[-1]
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text() + " ")
    assert MASK_KINDS["sa1b"].find(bare).fingerprint != before.fingerprint


def test_what_is_counted_is_what_is_trained_on(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare / "sa1b" / "sa_000020", tmp_path / "elsewhere")
    (bare / "sa1b" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (bare / "sa1b" / "sa_000021" / "loop").symlink_to(bare / "sa1b", target_is_directory=True)
    for name in ("sa_000020/sa_9.webp", "sa_9.tiff"):
        shutil.copyfile(bare / "sa1b" / "sa_000020" / "sa_223750.jpg", bare / "sa1b" / name)
    shutil.copyfile(
        bare / "sa1b" / "sa_000020" / "sa_223750.json", bare / "sa1b" / "sa_000020" / "sa_9.json"
    )
    folder = bare / "sa1b"
    photos = MASK_KINDS["sa1b"].find(bare)
    trained = MaskedPhotos(folder, Sa1bFolder(folder), ViewConfig()).photos
    assert len(photos.files) == 7
    assert photos.alone == 1
    assert [folder / name for name in photos.files] == [trained.path(i) for i in range(7)]
    assert len(MASK_KINDS["dino"].find(bare).files) == 8
    shutil.copyfile(folder / "sa_9.tiff", folder / "sa_9.png")
    with pytest.raises(UsageError, match="have one key, 'sa_9'"):
        MASK_KINDS["sa1b"].find(bare)


def stage_folders(recipe: str, root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Folders of all stages by name, as a dry run lists them."""
    run_masks_paper(recipe, Options(data=root, out=root / "out", dry_run=True))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "/stages/" in line]
    return {name: folder for *_, name, folder in lines}


def test_other_weights_of_equal_size_are_another_run(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stage_folders("pixelclip-dino", bare, capsys)
    (bare / "dino-vit-s-16" / ".cache").mkdir()
    (bare / "dino-vit-s-16" / ".cache" / "model.metadata").write_bytes(b"when")
    assert stage_folders("pixelclip-dino", bare, capsys) == before
    (bare / "dino-vit-s-16" / "model.safetensors").write_bytes(b"WEIGHTS")
    other_dino = stage_folders("pixelclip-dino", bare, capsys)
    kept = {name for name in before if other_dino[name] == before[name]}
    assert kept == {name for name in before if name.startswith("evaluate-clip-0-")} != set()
    (bare / "clip-vit-b-16" / BACKBONES["ViT-B-16-quickgelu"].weights).write_bytes(b"WEIGHTS")
    other_clip = stage_folders("pixelclip-dino", bare, capsys)
    assert {name for name in before if other_clip[name] == other_dino[name]} == {"masks-dino"}


def test_masks_of_another_size_and_another_clip_are_named(bare: Path) -> None:
    first = bare / "sa1b" / "sa_000020" / "sa_223750.jpg"
    Image.fromarray(np.zeros((28, 36, 3), np.uint8)).save(first)  # shrunk without its masks
    config = bare / "clip-vit-b-16" / "open_clip_config.json"
    config.write_text('{"model_cfg": {"embed_dim": 512}}')
    seen = found("pixelclip-sa1b", bare)
    assert seen["sa1b"].state == seen["clip-vit-b-16"].state == "missing"
    assert "must be resized together" in seen["sa1b"].found
    assert "has quick_gelu True" in seen["clip-vit-b-16"].found
    first.with_suffix(".json").write_text("{")
    assert "sa_223750.json" in found("pixelclip-sa1b", bare)["sa1b"].found
    (bare / "dino-vit-s-16" / "two.pth").write_bytes(b"weights")
    assert "2 files of weights" in found("pixelclip-dino", bare)["dino-vit-s-16"].found


def test_a_tokenizer_that_is_not_there_is_missing(bare: Path) -> None:
    folder = bare / "siglip-vit-b-16"
    assert found("pixelclip-siglip-sa1b", bare)[folder.name].state == "ok"
    (folder / "tokenizer.json").unlink()
    seen = found("pixelclip-siglip-sa1b", bare)[folder.name]
    assert (seen.state, seen.found) == (
        "missing", f"SigLIP ViT-B/16: no tokenizer.json of its tokenizer in {folder}",
    )  # fmt: skip
    assert seen.get == (
        "hf download timm/ViT-B-16-SigLIP open_clip_config.json open_clip_model.safetensors "
        "tokenizer.json tokenizer_config.json --local-dir ROOT/siglip-vit-b-16"
    )


def test_an_empty_folder_lacks_everything_and_is_told_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pixelclip", "--recipe", "pixelclip-dino", "--data", str(tmp_path), "--dry-run"]
    assert main(command) == 3
    said = capsys.readouterr()
    assert "pixelclip-dino lacks 8 of 8 things" in said.err
    assert said.err.count("\n") == 1
    lines = said.out.splitlines()
    for name in ("sa1b", "clip-vit-b-16", "dino-vit-s-16", "ade150@pixelclip"):
        place = next(i for i, line in enumerate(lines) if f"missing  {name}" in line)
        assert "get it:" in lines[place + 1]
    assert f"--local-dir {tmp_path}/clip-vit-b-16" in said.out
    assert "500,000 photographs: one process" in said.out  # the plan counts on the published run
    untuned = [*command, "--arms", "clip"]
    assert main(untuned) == 3
    assert "lacks 6 of 6 things" in capsys.readouterr().err  # no photograph is looked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "reads SA-1B: say where with --data FOLDER"),
        (Options(seeds=0), "--seeds must be >= 1, got 0"),
        (Options(limit=3), "--limit must be >= 4, got 3"),
        (Options(arms="sam"), "unknown arms 'sam'"),
        (Options(tasks="voc21@pixelclip"), "voc21"),
    ],
)
def test_wrong_options_are_one_line(options: Options, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        run_masks_paper("pixelclip-sa1b", options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_missing_set_is_named(bare: Path) -> None:
    shutil.rmtree(bare / "cityscapes")
    options = Options(data=bare, out=bare / "out")
    with pytest.raises(
        DataMissingError, match=r"lacks 1 of 7 things in .*: cityscapes19@pixelclip"
    ):
        run_masks_paper("pixelclip-sa1b", options)


def steps(recipe: str, machine: Machine, seeds: tuple[int, ...] = (0,)) -> dict[str, Step]:
    """The plan of a recipe with 1,000 images in every task."""
    chosen = load_masks_recipe(recipe)
    findings = [Finding(name=n, state="ok", found="", images=1000) for n in ("sa1b", *chosen.tasks)]
    configs = {arm: train_recipe(chosen, arm, 0) for arm in chosen.trained}
    return {s.name: s for s in plan_masks(chosen, configs, findings, seeds, machine)}


def test_estimates_are_photographs_by_rates() -> None:
    few, many = Machine(gpus=1, cores=16), Machine(gpus=1, cores=200)
    drawn = 10_000 * 48
    slow = steps("pixelclip-sa1b", few)["train-pixelclip-0"]
    assert slow.seconds == pytest.approx(drawn / (16 * RATES["masks_load"].value))  # 24 minutes
    assert "loading bounds it" in slow.note
    assert slow.gpu_gib == pytest.approx(48 * 0.54)
    fast = steps("pixelclip-sa1b", many)["train-pixelclip-0"]
    gflop = RATES["masks_vit_b"].value + 64 * RATES["masks_cluster"].value
    assert fast.seconds == pytest.approx(drawn * gflop / RATES["masks_products"].value / 1000)
    convnext = steps(ABLATION, many)
    assert convnext["train-clusters-512-0"].seconds > convnext["train-pixelclip-0"].seconds  # type: ignore[operator]  # both are known
    assert convnext["train-pixelclip-0"].gpu_gib == 0  # not measured
    assert steps("pixelclip-dino", few)["masks-dino"].seconds is None


def test_untuned_clip_is_scored_once_and_two_prompts_take_twice_as_long() -> None:
    plan = steps("pixelclip-sa1b", Machine(), seeds=(0, 1))
    assert [name for name in plan if "-clip-" in name] == ["evaluate-clip-0"]
    assert {"train-pixelclip-0", "train-pixelclip-1", "evaluate-pixelclip-1"} <= plan.keys()
    once = sum(score_seconds(load_task(name), 1000, Machine()) for name in TASKS)
    assert plan["evaluate-clip-0"].seconds == pytest.approx(2 * once)


def test_a_scored_model_is_let_go_before_the_next_arm_trains(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def load(*_: Any, **__: Any) -> nn.Module:
        model = nn.Linear(1, 1)
        made.append(weakref.ref(model))
        return model

    def tuned(*_: Any, **__: Any) -> None:
        alive.append(sum(model() is not None for model in made))

    def scored(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(data={"images_scored": 1}, metrics={})

    for name, stand_in in (
        ("tuning.load_checkpoint", load),
        ("tuning.open_clip_folder", lambda *_: None),
        ("tuning.PixelCLIPSegmenter", lambda *_, **__: None),
        ("tuning.evaluate", scored),
        ("stages.tune", tuned),
    ):
        monkeypatch.setattr(f"integration.papers.pixelclip.{name}", stand_in)
    recipe = replace(load_masks_recipe(ABLATION), arms=("pixelclip", "names"), tasks=TASKS[:2])
    run = MasksRun(
        recipe=recipe,
        configs={(arm, 0): train_recipe(recipe, arm, 0) for arm in recipe.arms},
        seeds=(0,),
        photos=MASK_KINDS["sa1b"].find(photographs),
        clip={},
        data=photographs,
        out=tmp_path,
        limit=None,
        ranks=Ranks(),
        images=dict.fromkeys(TASKS, 1),
        costs=defaultdict(float),
    )
    for stage in masks_stages(run).stages:
        (folder := stage.folder(tmp_path)).mkdir(parents=True)
        stage.run(folder)
    assert alive == [0, 0]
    assert len(made) == 2  # each kept for both of its tasks


def test_a_gpu_compiles_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_recipe(load_masks_recipe("pixelclip-sa1b"), "pixelclip", 0)
    assert on_this_machine(config, Ranks(), torch.device("cpu")) == config
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    there = on_this_machine(config, Ranks(0, 2), torch.device("cuda"))
    assert (there.machine.compile, there.data.workers) == (True, 15)
    data = replace(there.data, workers=config.data.workers)
    assert replace(there, machine=config.machine, data=data) == config


@pytest.mark.parametrize("name", BACKBONES)
def test_clips_of_the_recipes_have_the_sizes_that_the_plan_counts_with(name: str) -> None:
    known, config = BACKBONES[name], open_clip.get_model_config(name)
    assert config["embed_dim"] == known.embed_dim
    assert config.get("quick_gelu", False) == known.quick_gelu
    hub = config["text_cfg"].get("hf_tokenizer_name", "")
    assert hub == (known.hub if known.tokenizer else "")
    build = CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        model = build(**config)
    for part, millions in ((model, known.parameters), (model.visual, known.visual)):
        found = sum(each.numel() for each in part.parameters())
        assert found / 1e6 == pytest.approx(millions, abs=0.06)
    side = 32 if "convnext" in name else 16
    tower = DenseTower(model.visual)
    assert tower.stride == (side, side)
    image_px = 20 * side  # published; not what ViTs were trained with
    with torch.no_grad():
        features = tower(torch.empty(1, 3, image_px, image_px, device="meta"))
    assert features.shape == (1, known.embed_dim, 20, 20)


def test_published_figures_are_of_rows_and_tasks() -> None:
    content = tomllib.loads((PAIRS_FOLDER.parent / "published.toml").read_text())
    for name in RECIPES:
        recipe = load_masks_recipe(name)
        arms = dict.fromkeys([*recipe.arms, *UNTUNED, *ARMS])
        known = {recipe.row(arm, prompts) for arm in arms for prompts in recipe.prompts}
        assert set(content[name]) <= known
        assert {recipe.row(arm, p) for arm in recipe.arms for p in recipe.prompts} <= set(
            content[name]
        )
        for row in content[name]:
            for published in published_rows(name, row):
                assert set(published.percent) == set(recipe.tasks)
                assert "PixelCLIP, table" in published.source


def test_the_headline_gain_is_that_of_convnext_with_one_template() -> None:
    rows = [
        published_rows("pixelclip-convnextb-sa1b", f"{arm}, one template")[0].percent
        for arm in ("clip", "pixelclip")
    ]
    before, after = (sum(row.values()) / len(row) for row in rows)
    assert after - before == pytest.approx(16.26)  # the paper says 16.2


def test_differences_stand_under_the_papers_rows() -> None:
    recipe = load_masks_recipe("pixelclip-sa1b")
    ours = figures([{task: {"miou": 0.5} for task in TASKS}])
    text = comparison(recipe.name, recipe.load_tasks(), {"pixelclip, one template": ours})
    assert (
        "| percent | coco_stuff171 | ade150 | context59 | cityscapes19 | voc20 | average |" in text
    )
    assert "| difference | +28.6 | +33.3 | +15.1 | +26.2 | -33.1 | +14.0 |" in text
