"""The command: verbs, options, exit codes, one line for an error."""

import json
import logging
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcluster.cli import VERBS, main
from maskcluster.config import TrainConfig
from maskcluster.masks.sa1b import write_sa1b
from maskcluster.masks.store import MaskStore
from maskcluster.recipe import load_recipe, recipe_names, recipe_text
from maskcluster.training.train import TrainResult

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))
Capture = pytest.CaptureFixture[str]


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight photographs."""
    case.shapes(tmp_path / "photos", 8)
    return tmp_path / "photos"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Their masks, as SA-1B's JSON."""
    folder = tmp_path / "json"
    folder.mkdir()
    for number in range(8):
        key = f"{number:03d}"
        write_sa1b(folder / f"{key}.json", case.scene(number)[1], file_name=f"{key}.png")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of the tiny model, which lies in a folder."""
    case.write_clip(tmp_path / "clip")
    config = case.changed(
        model={"architecture": f"local-dir:{tmp_path / 'clip'}", "pretrained": ""},
        optim={"total_steps": 2},
    )
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(config))
    return path


# masks


@pytest.mark.parametrize(
    ("options", "source"),
    [
        (("--slic.segments", 12), "slic"),
        (("--generator", "felzenszwalb", "--felzenszwalb.min_size", 30), "felzenszwalb"),
    ],
)
def test_generate_makes_a_store_and_a_sheet(
    photos: Path, tmp_path: Path, capsys: Capture, options: tuple[object, ...], source: str
) -> None:
    out = tmp_path / "store"
    assert run("generate", photos, out, *options) == 0
    said = capsys.readouterr().out
    assert "photographs\t8" in said and "masks of 8 photographs" in said
    store = MaskStore.open(out)
    assert len(store) == 8 and store["000"].source == source
    assert store.generator["name"] == source
    if source == "slic":
        assert store.generator["segments"] == 12
    assert (out / "sheet.png").is_file()
    assert run("generate", photos, out, *options) == 0
    assert "8 photographs were there already" in capsys.readouterr().out
    assert run("generate", photos, out, "--slic.segments", 5, "--generator", "slic") == 2
    assert "masks of another generator" in capsys.readouterr().err
    other = "felzenszwalb" if source == "slic" else "slic"
    assert run("generate", photos, out, "--generator", other) == 2
    assert f"another generator ({source} there, {other} here)" in capsys.readouterr().err


def test_generate_with_dino_takes_its_options(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def load(name: str, **options: Any) -> Any:
        seen.update(options, name=name)
        raise ValueError("stop here")

    monkeypatch.setattr("maskcluster.cli.load_backbone", load)
    dino = ("--generator", "dino", "--dino.backbone", "some", "--dino.weights", "w.pth")
    assert run("generate", photos, tmp_path / "out", *dino, "--device", "cpu") == 2
    assert seen["name"] == "some" and seen["weights"] == Path("w.pth")


def test_a_dry_run_makes_nothing(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("generate", photos, tmp_path / "out", "--dry_run", "true") == 0
    assert capsys.readouterr().out == "photographs\t8\n"
    assert not (tmp_path / "out").exists()


def test_a_sheet_of_json_is_drawn_and_not_overwritten(
    photos: Path, masks: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "sheet.png"
    assert run("sheet", photos, masks, out, "--most", 2, "--columns", 1, "--cell_px", 50) == 0
    with Image.open(out) as picture:
        assert picture.width < 150
    assert run("sheet", photos, masks, out) == 2
    assert "say --overwrite true" in capsys.readouterr().err
    assert run("sheet", photos, masks, out, "--overwrite", "true") == 0


# training


@pytest.mark.slow
def test_train_then_use_the_model_in_every_way(
    photos: Path, masks: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run("train", recipe, photos, masks, out, "--device", "cpu") == 0
    said = capfd.readouterr()
    assert "photographs\t8\nsteps\t2" in said.out
    assert f"checkpoint\t{out / 'checkpoint-00000002'}" in said.out
    model = ("--checkpoint", out, "--names", "red thing, blue thing, grass", "--device", "cpu")
    assert run("segment", photos, *model, "--out", tmp_path / "maps") == 0
    said = capfd.readouterr()
    assert "\tgrass\n" in said.out and "photographs\t8" in said.out
    assert "initialized randomly" not in said.err  # all weights are the checkpoint's
    with Image.open(tmp_path / "maps" / "labels" / "003.png") as opened:
        assert np.array(opened).max() <= 2 and opened.size == (64, 64)
    pair = (photos / "000.png", photos / "001.png")
    assert run("classify", *pair, *model, "--masks", masks, "--out", tmp_path / "named") == 0
    assert "photographs\t2" in capfd.readouterr().out
    table = json.loads((tmp_path / "named" / "photos" / "001.json").read_text())
    assert len(table["masks"]) == 12 and table["masks"][0]["name"]
    words = ("--names", "red, blue, grass", "--photos", photos, "--masks", masks, "--most", 2)
    assert run("name", out, tmp_path / "page", *words, "--device", "cpu") == 0
    assert (tmp_path / "page" / "index.html").is_file()
    assert len(json.loads((tmp_path / "page" / "names.json").read_text())["clusters"]) == 5
    assert run("convert", out, tmp_path / "plain") == 0
    assert (tmp_path / "plain" / "open_clip_config.json").is_file()
    assert run("convert", out, tmp_path / "plain.pth", "--to", "released") == 0
    for checkpoint in (tmp_path / "plain", tmp_path / "plain.pth"):
        again = ("--names", "a, b", "--checkpoint", checkpoint, "--out", f"{checkpoint}-maps")
        assert run("segment", photos / "000.png", *again, "--device", "cpu") == 0


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Recipes that training was called with; nothing is trained."""
    seen: list[TrainConfig] = []

    def train(config: TrainConfig, _: Any, run: Path, **__: Any) -> TrainResult:
        seen.append(config)
        return TrainResult(run, run)

    monkeypatch.setattr("maskcluster.cli.train_run", train)
    return seen


def test_the_recipe_is_what_is_trained(
    photos: Path, masks: Path, recipe: Path, trained: list[TrainConfig]
) -> None:
    assert run("train", recipe, photos, masks, "x") == 0
    assert trained == [load_recipe(recipe)]


def test_every_field_is_an_option_and_the_others_stay_the_recipes(
    photos: Path, masks: Path, trained: list[TrainConfig]
) -> None:
    options = {
        "--optim.lr": 1e-3,
        "--cluster.targets": "masks",
        "--cluster.balance": "false",
        "--views.blur_sigma": "[0.5, 1.5]",
        "--machine.decoder_chunk": 9,
        "--data.batch": 8,
        "--seed": 3,
        "--log_every": 7,
    }
    flat = [word for pair in options.items() for word in pair]
    command = ("train", *flat, "pixelclip-convnextb-sa1b", photos, masks, "x")
    assert run(*command) == 0
    (config,) = trained
    assert config.model.trainable == "all" and config.cluster.eps == 1.0  # the recipe's
    assert config.optim.lr == 1e-3 and config.optim.decoder_lr == 2e-4
    assert config.cluster.targets == "masks" and not config.cluster.balance
    assert config.views.blur_sigma == (0.5, 1.5) and config.views.image_px == 640
    assert (config.machine.decoder_chunk, config.data.batch) == (9, 8)
    assert (config.seed, config.log_every, config.checkpoint_every) == (3, 7, 1000)


def test_names_of_a_recipe_pass_through(
    photos: Path, masks: Path, trained: list[TrainConfig]
) -> None:
    command = ("train", "pixelclip-convnextb-names", photos, masks, "x", "--data.batch", 4)
    assert run(*command) == 0
    assert len(trained[0].cluster.names) == 171 and trained[0].cluster.names[0] == "person"


def test_a_dry_run_trains_nothing(
    photos: Path, masks: Path, recipe: Path, tmp_path: Path, trained: list[TrainConfig]
) -> None:
    assert run("train", recipe, photos, masks, tmp_path / "run", "--dry_run", "true") == 0
    assert not trained and not (tmp_path / "run").exists()


def test_an_interrupt_is_four_and_says_how_to_go_on(
    photos: Path,
    masks: Path,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("maskcluster.cli.train_run", stop)
    assert run("train", recipe, photos, masks, "x") == 4
    assert capsys.readouterr().err.endswith("maskcluster: stopped; run it again to go on\n")


# recipes


def test_recipes_are_listed_and_written_out(tmp_path: Path, capsys: Capture) -> None:
    assert run("recipes") == 0
    assert capsys.readouterr().out.split() == recipe_names()
    assert run("recipes", "--name", "pixelclip-dino") == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    assert run("recipes", "--name", tmp_path / "mine.toml") == 0
    assert "cutout_masks = false" in capsys.readouterr().out


# what goes wrong


@pytest.mark.slow
def test_errors_are_one_line_and_an_exit_code(
    photos: Path, masks: Path, recipe: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[optim]\nlr_ = 0.1\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    train = ("train", recipe, photos, masks, out)
    model = ("--names", "a", "--checkpoint", empty, "--out", out)
    names = (empty, out, "--names", "a,b")
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "choose from", ("trian",)),
        (2, "did you mean 'optim.lr'?", ("train", bad, photos, masks, out)),
        (2, "did you mean 'pixelclip-sa1b'?", ("train", "pixelclip-sa1", photos, masks, out)),
        (2, "unknown option --optim.rl; did you mean --optim.lr?", (*train, "--optim.rl", 1)),
        (2, "--optim.lr must be a number, got x", (*train, "--optim.lr", "x")),
        (2, "--model.trainable must be attention, all", (*train, "--model.trainable", "x")),
        (2, "train: lr must be > 0, got 0.0", (*train, "--optim.lr", 0)),
        (2, "log_every must be >= 1, got 0", (*train, "--log_every", 0)),
        (2, "names must be one for each", (*train, "--cluster.prompts", "names")),
        (2, "arguments are required: masks, out", train[:3]),
        (2, "--device mars", (*train, "--device", "mars")),
        (3, "there are 8; lower data.batch (--data.batch N)", (*train, "--data.batch", 9)),
        (3, "no such folder", ("train", recipe, tmp_path / "none", masks, out)),
        (3, "no .json file", ("train", recipe, photos, empty, out)),
        (3, "no such folder", ("generate", tmp_path / "none", out)),
        (3, "no photograph there", ("generate", empty, out)),
        (2, "--part_size needs at least 1", ("generate", photos, out, "--part_size", 0)),
        (2, "segments and max_side from 1", ("generate", photos, out, "--slic.segments", 0)),
        (2, "--generator must be slic", ("generate", photos, out, "--generator", "x")),
        (2, "--most needs at least 1", ("sheet", photos, masks, out, "--most", 0)),
        (1, "not a maskcluster checkpoint", ("segment", photos, *model)),
        (3, "no such checkpoint", ("convert", tmp_path / "none", out)),
        (1, "not a maskcluster checkpoint", ("name", *names)),
        (2, "--runners_up needs at least 0", ("name", *names, "--runners_up", -1)),
    ]  # fmt: skip
    for code, said, argv in cases:
        assert run(*argv) == code, argv
        line = capsys.readouterr().err
        assert said in line and line.startswith("maskcluster: ") and line.count("\n") == 1, line
    assert not out.exists()


def test_what_the_hub_logs_comes_once(tmp_path: Path) -> None:
    """It has a handler of its own; passed on to the command's, every line would come twice."""
    hub = logging.getLogger("huggingface_hub")
    hub.propagate = True
    assert run("convert", tmp_path / "none", tmp_path / "out") == 3
    assert not hub.propagate


def test_help_tells_every_verb_and_every_field(capsys: Capture) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    for verb in VERBS:
        assert run(verb, "--help") == 0
    capsys.readouterr()
    assert run("train", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--cluster.momentum" in said
    assert "the share of itself that the momentum teacher keeps each step" in said
