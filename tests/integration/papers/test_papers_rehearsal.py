"""Every kind of run, real and small: true layouts, every stage, two ranks.

Architectures are the true ones where one process runs, but for the ablation's five arms: those, and
two ranks, are of small models, for nothing that they show hangs on size.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from conceptarchive import ConceptArchive, check_archive
from groupvit import TextConfig, VisionConfig, load_model
from integration.papers.recipe import COCU_TASKS, FOLDER
from integration.reproduce import main

ABLATION = "cocu-ablation-cc3m"
SMALL = """
[model]
embed_dim = 16
projector = "linear"
[model.vision]
image_px = 32
patch_px = 4
width = 16
heads = 2
depths = [0, 0]
group_tokens = [4]
output_groups = [4]
drop_path = 0.0
stem = "conv"
pre_assign = false
[model.text]
width = 16
layers = 1
heads = 2
"""
ARMS = ("baseline", "model-1", "model-2", "model-3", "model-4")

pytestmark = pytest.mark.slow


def command(verb: str, recipe: str, root: Path, out: Path, *options: str) -> list[str]:
    given = ["--recipe", recipe, "--data", str(root), "--out", str(out), "--limit", "4"]
    return [verb, *given, *options]


def stage(out: Path, name: str) -> Path:
    """The one folder of a stage."""
    (found,) = (out / "stages").glob(f"{name}-??????????")
    return found


def results(out: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((out / name / "results.json").read_text()))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of results for all runs, which share what they can."""
    return tmp_path_factory.mktemp("papers")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of the ablation with small models, in float32: two ranks round as one process."""
    folder = tmp_path_factory.mktemp("exact")
    text = (files("groupvit") / "recipes" / "cocu-cc3m.toml").read_text()
    text = text.replace("[optim]", '[optim]\nprecision = "float32"')
    (folder / "base.toml").write_text(text + SMALL)
    recipe = folder / f"{ABLATION}.toml"
    shipped = (FOLDER / recipe.name).read_text()
    mine = f'base = "{folder / "base.toml"}"\nencoder = "clip-small"'
    recipe.write_text(shipped.replace('base = "cocu-cc3m"', mine))
    return recipe


@pytest.fixture(scope="module")
def ablation(root: Path, out: Path, exact: Path) -> Path:
    """The five arms on four pairs, in this process."""
    assert main(command("cocu", str(exact), root, out, "--tasks", "voc21@cocu")) == 0
    return out


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """`imagenet1k@cocu` with one prompt a class: seven take half a minute on a core."""
    text = (files("segbench") / "tasks" / "imagenet1k@cocu.toml").read_text()
    path = tmp_path / "imagenet1k@cocu.toml"
    path.write_text(text.replace("groupvit_simple:subset", "groupvit_simple"))
    return path


def test_cocu_with_another_pool_on_every_benchmark(
    root: Path, out: Path, imagenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ",".join([*COCU_TASKS[:8], str(imagenet)])
    options = ("--pool", "cc3m", "--arms", "cocu", "--tasks", tasks)
    given = command("cocu", "cocu-cc12m", root, out, *options)
    assert main(given) == 0
    said = capsys.readouterr()
    assert "| CoCu (CoCu, table 4) |" in said.out
    assert "| difference |" in said.out
    found = results(out, "cocu-cc12m-limit-4")
    scores = found["scores"]["cocu-0"]
    assert tuple(scores) == COCU_TASKS
    assert [each["images"] for each in scores.values()] == [1] * 8 + [2]
    assert all(0 <= each["metrics"]["miou"] <= 1 for each in list(scores.values())[:8])
    assert found["pairs"] == {"cc12m": 4}
    (archive,) = [
        opened
        for folder in (out / "stages").glob("archive-vision-relative-*")
        if (opened := ConceptArchive.open(folder / "archive")).keys[0].startswith("cc12m/")
    ]
    assert list(archive.keys) == [f"cc12m/cc12m-train-0000/0000{i:05d}" for i in range(4)]
    assert archive.references(archive.keys[0])[0][0].startswith("cc3m/")

    assert main(given) == 0
    assert "running" not in capsys.readouterr().err  # all of it is up to date


def test_the_ablation_trains_five_arms_on_three_archives(ablation: Path) -> None:
    found = results(ablation, f"{ABLATION}-limit-4")
    assert list(found["scores"]) == [f"{arm}-0" for arm in ARMS]
    assert {f"train-{arm}-0" for arm in ARMS} <= found["seconds"].keys()
    for name in ("language-cosine", "vision-cosine", "vision-relative"):
        (opened,) = [
            archive
            for folder in (ablation / "stages").glob(f"archive-{name}-*")
            if (archive := check_archive(folder / "archive")).keys[0].startswith("cc3m/")
        ]
        expansion, ranking = name.split("-")
        assert opened.manifest["config"]["expansion"] == expansion
        assert opened.manifest["config"]["ranking"] == ranking
        assert len(opened) == 4


def test_groupvit_on_three_sets_without_the_multi_label_loss(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--tasks", "coco_object81@cocu")
    assert main(command("groupvit", "groupvit-gcc-redcaps", root, tmp_path, *given)) == 0
    assert "| 27.5 |" in capsys.readouterr().out
    run = stage(tmp_path, "train-baseline-0")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 12 // 2
    assert "multi_label_loss" not in lines[0]
    model = load_model(run).config
    assert model.vision == VisionConfig()
    assert model.text == TextConfig()
    found = results(tmp_path, "groupvit-gcc-redcaps-limit-4")
    assert found["pairs"] == {"cc3m": 4, "cc12m": 4, "redcaps12m": 4}
    assert {path.name.rsplit("-", 1)[0] for path in (tmp_path / "stages").iterdir()} == {
        "sample-cc3m", "sample-cc12m", "sample-redcaps12m", "index", "train-baseline-0",
        "evaluate-baseline-0-coco_object81-cocu",
    }  # fmt: skip


def test_two_ranks_learn_what_one_process_does(
    root: Path, ablation: Path, exact: Path, tmp_path: Path, on_two_ranks: Callable[..., str]
) -> None:
    alone, ranks = ablation, tmp_path / "ranks"
    given = ("--tasks", "voc21@cocu", "--arms", "model-1")
    said = on_two_ranks(command("cocu", str(exact), root, ranks, *given))
    assert said.count(f"# {ABLATION}-limit-4") == 1  # of the first rank
    names = {folder.name for folder in (ranks / "stages").iterdir()}
    assert len(names) == 7
    assert names <= {folder.name for folder in (alone / "stages").iterdir()}
    (archive,) = [name for name in names if name.startswith("archive-")]
    ours, theirs = (
        ConceptArchive.open(folder / "stages" / archive / "archive").manifest["files"]
        for folder in (ranks, alone)
    )
    assert ours == theirs  # to the byte
    (run,) = [name for name in names if name.startswith("train-")]
    assert losses(ranks / "stages" / run) == pytest.approx(losses(alone / "stages" / run), rel=1e-4)
