"""The command: verbs, exit codes, one line for an error."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from groupvit import (
    PairDataset,
    TrainConfig,
    TrainResult,
    load_model,
    load_released,
)
from groupvit.cli import main

RECIPE = """
log_every = 1
[optim]
total_steps = 2
precision = "float32"
[data]
batch = 4
concepts = 1
augment = "none"
workers = 0
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
"""


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv])


def test_train_convert_and_segment(
    colour_shard: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    shards, out = colour_shard.parent / "colours-*.tar", tmp_path / "run"
    assert run("train", tmp_path / "r.toml", shards, out, "--device", "cpu") == 0
    assert "pairs\t12" in capsys.readouterr().out
    assert run("convert", out, tmp_path / "hf", "--layout", "huggingface") == 0
    trained, again = load_model(out), load_released(tmp_path / "hf")
    assert torch.equal(trained.vision.norm.weight, again.vision.norm.weight)
    capsys.readouterr()
    for i, checkpoint in enumerate((out, tmp_path / "hf")):
        picture = tmp_path / f"overlay-{i}.png"
        args = ("--classes", "dog, green grass,sky,", "--checkpoint", checkpoint, "--out", picture)
        assert run("segment", photo, *args) == 0
        shares = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [name for _, name in shares] == ["dog", "green grass", "sky"]
        assert sum(float(share) for share, _ in shares) == pytest.approx(1, abs=2e-4)
        with Image.open(picture) as opened:
            size = opened.size
        assert size[0] >= 36 and size[1] > 40  # the picture and a legend


def test_dry_run_trains_nothing(
    colour_shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    assert (
        run("train", tmp_path / "r.toml", colour_shard, tmp_path / "run", "--dry_run", "true") == 0
    )
    assert "steps\t2" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_errors_are_one_line_and_an_exit_code(
    colour_shard: Path,
    photo: Path,
    released: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "good.toml").write_text(RECIPE)
    (tmp_path / "bad.toml").write_text("[optim]\ntotal_steps = 5\nlr_ = 0.1\n")
    (tmp_path / "no.jpg").write_text("no picture")
    (tmp_path / "there.png").touch()
    names = ("--classes", "dog", "--checkpoint", released, "--out")
    new = tmp_path / "new.png"
    bare = tmp_path / "bare"
    bare.mkdir()
    (tmp_path / "large.toml").write_text(RECIPE.replace("batch = 4", "batch = 128"))
    (tmp_path / "small.toml").write_text(f"{RECIPE}context = 32\n")
    good, large, small = (
        ("train", tmp_path / f"{name}.toml", colour_shard) for name in ("good", "large", "small")
    )
    keras = ("--layout", "keras")
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "did you mean 'optim.lr'?", ("train", tmp_path / "bad.toml", colour_shard, "x")),
        (3, "no such file", ("train", tmp_path / "good.toml", tmp_path / "*.rar", "x")),
        (3, "no such file", ("segment", tmp_path / "none.jpg", *names, new)),
        (3, "not a picture", ("segment", tmp_path / "no.jpg", *names, new)),
        (2, "exists", ("segment", photo, *names, tmp_path / "there.png")),
        (2, "name of a picture", ("segment", photo, *names, tmp_path / "new.xyz")),
        (2, "name of a picture", ("segment", photo, *names, tmp_path / "new.psd")),  # read only
        (2, "name of a picture", ("segment", photo, *names, tmp_path / "new.xbm")),  # two colours
        (2, "name of a picture", ("segment", photo, *names, tmp_path / "new")),
        (2, "at least one name", ("segment", photo, "--classes", " ,", *names[2:], new)),
        (2, "--device mars", ("segment", photo, *names, new, "--device", "mars")),
        (2, "groupvit convert --help", ("convert", released, new, "--layout", "keras")),
        (2, "choose from", ("segmint",)),
        (2, "exists", ("convert", released, released)),
        (2, "--layout must be nvlabs, huggingface, got keras", ("convert", released, new, *keras)),
        (2, "--top must be a whole number, got x", ("classify", photo, *names[:4], "--top", "x")),
        (
            2,
            "--check_images must be true, false, auto, got maybe",
            (*good, tmp_path / "run", "--check_images", "maybe"),
        ),
        (2, "arguments are required: checkpoint; see", ("classify", photo, *names[:2])),
        (2, "model.text.context >= 77", (*small, tmp_path / "run")),
        (3, "there are 12; lower data.batch", (*large, tmp_path / "run", "--dry_run", "true")),
        (2, "data.source = 'captions'", (*good, tmp_path / "run", "--concepts", tmp_path)),
        (3, "no .tar file in this folder", (*good[:2], bare, tmp_path / "run")),
        (1, "not a groupvit checkpoint", ("convert", tmp_path, new)),
    ]
    for code, said, argv in cases:
        assert run(*argv) == code, argv
        line = capsys.readouterr().err
        assert said in line and line.startswith("groupvit: ") and line.count("\n") == 1


@pytest.mark.parametrize(("templates", "prompts"), [("simple", 1), ("clip80", 80)])
def test_train_follows_the_templates_of_the_recipe(
    colour_shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    templates: str,
    prompts: int,
) -> None:
    seen: list[PairDataset] = []

    def train(_: TrainConfig, dataset: PairDataset, run: Path, **__: object) -> TrainResult:
        seen.append(dataset)
        return TrainResult(run, run)

    monkeypatch.setattr("groupvit.cli.train_run", train)
    recipe = RECIPE.replace("[data]", f'[data]\ntemplates = "{templates}"\nseed = 5')
    (tmp_path / "r.toml").write_text(recipe)
    assert run("train", tmp_path / "r.toml", colour_shard, tmp_path / "run") == 0
    assert (len(seen[0].templates), seen[0].seed, seen[0].concepts) == (prompts, 5, 1)


def test_wrong_usage_is_two_and_help_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("segmint") == 2
    assert run("segment") == 2
    assert run("--help") == 0
    said = capsys.readouterr().out
    for verb in ("train", "segment", "classify", "convert"):
        assert verb in said
        assert run(verb, "--help") == 0
