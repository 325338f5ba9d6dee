"""Classification from a miniature ImageNet to results: layouts, kills, ranks, command, tables."""

import dataclasses
import io
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from segbench import (
    ClassificationReport,
    Classifier,
    DataMissingError,
    FormatError,
    UsageError,
    benchmark_table,
    compare,
    evaluate_classification,
    load_names,
)
from segbench.cli import main
from segbench.results.any_report import read_report
from segbench.results.tables import classification_table

SCRIPT = Path(__file__).with_name("classify_script.py")
NAMES = load_names("imagenet1k")
CLASSES = Path(__file__).parents[1] / "src/segbench/classnames/imagenet1k.json"
WNIDS = json.loads(CLASSES.read_text())["wnids"]
MISSILE, OTHER_MISSILE = 657, 744
SHOWN = (  # label, and what the picture shows
    (0, 0), (0, 0), (0, 1), (1, 1), (1, 999), (3, 500), (MISSILE, MISSILE),
    (OTHER_MISSILE, MISSILE),
)  # fmt: skip
TASK = """
id = "imagenet1k@one"
templates = "groupvit_simple"
[dataset]
kind = "imagenet1k"
"""
Cli = Callable[..., tuple[int, str, str]]


class ColourClassifier:
    """Knows class c by the angle 2 pi c / 1000, and an image by the class its colour says."""

    name = "colours"

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        labels = [NAMES.index(p.removeprefix("a photo of a ").removesuffix(".")) for p in prompts]
        return angles(torch.tensor(labels))

    def encode_image(self, image: Tensor) -> Tensor:
        assert image.shape == (3, 224, 224)
        assert image.dtype == torch.float32
        red, green, _ = (255 * image.mean(dim=(1, 2))).round().tolist()
        return 7 * angles(torch.tensor([red + 256 * green]))[0]  # its length does not matter


class Shifted(ColourClassifier):
    """Says the next class for class 0, and so loses its images."""

    name = "shifted"

    def encode_image(self, image: Tensor) -> Tensor:
        found = super().encode_image(image)
        return angles(torch.tensor([1]))[0] if found[0] > 7 - 1e-5 else found


def angles(labels: Tensor) -> Tensor:
    turned = labels.double() * (2 * math.pi / 1000)
    return torch.stack([turned.cos(), turned.sin()], dim=1).float()


def picture(label: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (250, 240), (label % 256, label // 256, 0)).save(content, "PNG")
    return content.getvalue()


def name_of(index: int) -> str:
    return f"ILSVRC2012_val_{index + 1:08d}"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`val/<wnid>/`, eight images of five classes."""
    for index, (label, shown) in enumerate(SHOWN):
        folder = tmp_path / "data/imagenet/val" / WNIDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name_of(index)}.png").write_bytes(picture(shown))
    return tmp_path / "data"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """The same in one folder, with a file of WordNet ids; PNG under the name that ImageNet has."""
    folder = tmp_path / "flat/val"
    folder.mkdir(parents=True)
    for index, (_, shown) in enumerate(SHOWN):
        (folder / f"{name_of(index)}.JPEG").write_bytes(picture(shown))
    words = "\n".join(WNIDS[label] for label, _ in SHOWN)
    (folder.parent / "imagenet_2012_validation_synset_labels.txt").write_text(words)
    return folder.parent


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "imagenet1k@one.toml"
    path.write_text(TASK)
    return str(path)


def results(out: Path) -> dict[str, Any]:
    """What is in a results folder but the clock and the command."""
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    for name in ("timing", "command"):
        del content[name]
    return content | {"answers.npz": (out / "answers.npz").read_bytes()}


def test_scores_by_hand_in_both_layouts(folders: Path, flat: Path, task: str) -> None:
    report = evaluate_classification(ColourClassifier(), task, root=folders)
    # rank: the angle's neighbours come next, so class 0 shown as 1 has rank 1 or 2, and class 1
    # shown as 999 is two steps off; class 744 is shown as its namesake and loses the tie
    assert report.metrics["acc1"] == 4 / 8
    assert report.metrics["acc5"] == 7 / 8
    assert report.metrics["mean_per_class_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0 + 1 + 0) / 5)
    assert (report.metrics["ties"], report.metrics["ties_lost"]) == (2, 1)
    assert report.answers.labels.tolist() == [label for label, _ in SHOWN]
    assert report.answers.predictions.tolist() == [0, 0, 1, 1, 999, 500, MISSILE, MISSILE]
    assert report.answers.ids == tuple(name_of(index) for index in range(8))
    rows = {row["name"]: row for row in report.per_class[:2]}
    assert rows["tench"] == {
        "name": "tench", "recall": 2 / 3, "recall5": 1, "images": 3, "predicted": 2,
    }  # fmt: skip
    assert rows["goldfish"]["predicted"] == 2
    assert math.isnan(report.per_class[2]["recall"])
    assert report.interval.low < report.interval.point == 0.5 < report.interval.high
    assert report.data["images_published"] == 50_000
    assert (report.data["short_px"], report.data["crop_px"]) == (224, 224)
    assert any("missile (657, 744), sunglasses (836, 837)" in text for text in report.warnings)
    assert any("8 images, expected 50,000" in text for text in report.warnings)
    other = evaluate_classification(ColourClassifier(), task, root=flat)
    assert other.metrics == report.metrics
    assert other.data["content_sha256"] == report.data["content_sha256"]
    assert (report.data["layout"], other.data["layout"]) == ("folders", "flat")


def test_the_hash_of_the_content_covers_the_labels(flat: Path, task: str) -> None:
    before = evaluate_classification(ColourClassifier(), task, root=flat).data["content_sha256"]
    truth = flat / "imagenet_2012_validation_synset_labels.txt"
    truth.write_text(truth.read_text().replace(WNIDS[3], WNIDS[4]))
    after = evaluate_classification(ColourClassifier(), task, root=flat).data["content_sha256"]
    assert after != before


def test_round_trip_and_files_that_do_not_belong_together(
    folders: Path, task: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = evaluate_classification(ColourClassifier(), task, root=folders, out=out)
    for path in (out, out / "results.json"):
        again = ClassificationReport.read(path)
        assert again == report == read_report(path)
        assert again.answers.ranks.tolist() == report.answers.ranks.tolist()
    content = json.loads((out / "results.json").read_text())
    assert (content["kind"], content["schema_version"]) == ("segbench-classification", 1)
    assert sorted(path.name for path in out.iterdir()) == ["answers.npz", "results.json"]
    again.write(tmp_path / "copy")
    assert results(tmp_path / "copy") == results(out)
    (out / "answers.npz").write_bytes(b"other")
    with pytest.raises(FormatError, match=r"answers\.npz: missing or not the file"):
        read_report(out)
    (tmp_path / "copy/results.json").write_text(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(FormatError, match="version 2, reads segbench-classification 1"):
        read_report(tmp_path / "copy")


@pytest.mark.parametrize("stop", [0, 1, 5, 7])
def test_a_stopped_run_goes_on_where_it_was(
    folders: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    (folders / f"imagenet/val/{WNIDS[1]}/{name_of(3)}.png").write_bytes(b"broken")
    monkeypatch.setattr(ColourClassifier, "fingerprint", "weights 1", raising=False)
    evaluate_classification(ColourClassifier(), task, root=folders, out=tmp_path / "unbroken")
    calls: list[int] = []
    encode = ColourClassifier.encode_image

    def stops(self: Any, image: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return encode(self, image)

    monkeypatch.setattr(ColourClassifier, "encode_image", stops)
    out = tmp_path / "out"
    if stop < 7:  # images that can be read
        with pytest.raises(KeyboardInterrupt):
            evaluate_classification(ColourClassifier(), task, root=folders, out=out)
        assert not (out / "results.json").exists()
    report = evaluate_classification(ColourClassifier(), task, root=folders, out=out)
    assert len(calls) == 7 + (stop < 7)  # no image that was done is looked at again
    assert results(out) == results(tmp_path / "unbroken")
    assert not (out / "journal").exists()
    assert (report.data["images_scored"], report.data["images_skipped"]) == (7, 1)


def command(root: Path, out: Path, seconds: float, ranks: int = 1) -> list[str]:
    run = [str(SCRIPT), str(root), str(out), str(seconds)]
    if ranks == 1:
        return [sys.executable, *run]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc_per_node={ranks}", *run]


def finish(*args: Any) -> None:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_kills_and_other_numbers_of_processes_change_nothing(flat: Path, tmp_path: Path) -> None:
    finish(flat, tmp_path / "unbroken", 0)
    draw, journal = random.Random(0), tmp_path / "out/journal"
    for _ in range(2):
        begun = len(list(journal.glob("*")))
        child = subprocess.Popen(command(flat, tmp_path / "out", 0.5))
        while len(list(journal.glob("*"))) == begun:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.9))
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "out/results.json").exists()
    finish(flat, tmp_path / "out", 0, 3)
    assert results(tmp_path / "out") == results(tmp_path / "unbroken")
    finish(flat, tmp_path / "two", 0, 2)
    assert results(tmp_path / "two") == results(tmp_path / "unbroken")


def test_results_that_are_there_stand_for_the_same_run(
    folders: Path, task: str, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"root": folders, "out": tmp_path / "out"}
    first = evaluate_classification(ColourClassifier(), task, **common)
    again = evaluate_classification(ColourClassifier(), task, **common, skip_existing=True)
    assert again == first
    with pytest.raises(UsageError, match="holds results already"):
        evaluate_classification(Shifted(), task, **common, skip_existing=True)
    with pytest.raises(UsageError, match="holds results already"):
        evaluate_classification(ColourClassifier(), task, **common, limit=2, skip_existing=True)
    third = evaluate_classification(Shifted(), task, **common, limit=2, overwrite=True)
    assert third.metrics["acc1"] == 0
    assert third.warnings[0] == (
        "limited to the first 2 of 8 images: not comparable with a full run"
    )


def test_another_model_does_not_go_on(
    folders: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common: dict[str, Any] = {"root": folders, "out": tmp_path / "out"}
    with monkeypatch.context() as patch:
        seen = iter([0, 1])
        patch.setattr(ColourClassifier, "encode_image", lambda *_: angles(Tensor([next(seen)]))[0])
        with pytest.raises((StopIteration, RuntimeError)):
            evaluate_classification(ColourClassifier(), task, **common)
    with pytest.raises(UsageError, match=r"of another evaluation \(its model is"):
        evaluate_classification(Shifted(), task, **common)


def test_comparison_is_paired_signed_and_by_class(folders: Path, task: str) -> None:
    first = evaluate_classification(ColourClassifier(), task, root=folders)
    second = evaluate_classification(Shifted(), task, root=folders)
    found = compare(first, second)
    assert found.difference.point == -2 / 8
    assert (found.per_class[-1][0], f"{found.per_class[-1][1]:.4f}") == ("tench", "-0.6667")
    assert "shifted - colours = -25.00 acc1 [" in found.summary()
    assert not found.is_real  # two images of eight may be chance
    assert compare(first, first).difference.low == compare(first, first).difference.high == 0
    many = dataclasses.replace(first.answers, ids=("x", *first.answers.ids[1:]))
    assert compare(first, dataclasses.replace(second, answers=many)).difference.images == 7
    moved = dataclasses.replace(second.answers, labels=second.answers.labels[::-1])
    with pytest.raises(UsageError, match="different labels"):
        compare(first, dataclasses.replace(second, answers=moved))


def test_tables_have_accuracy(folders: Path, task: str) -> None:
    report = evaluate_classification(ColourClassifier(), task, root=folders)
    report = dataclasses.replace(report, task=report.task | {"id": "imagenet1k@groupvit"})
    (row,) = benchmark_table([report]).rows
    assert row == ("colours", "groupvit", *"--------", "-", "50.00 †")
    named = {row[0]: row[-1] for row in benchmark_table([], published=True).rows}
    assert named["CoCu CC12M (quoted: CoCu, table 4)"] == "38.40"
    assert named["GroupViT CC12M+RedCaps12M (quoted: NVlabs/GroupViT README)"] == "51.60"
    lines = classification_table([report]).render().splitlines()
    assert lines[0].startswith("| task | model | images | acc1 |")
    assert lines[2].startswith("| imagenet1k@groupvit v1 | colours † | 8 | 50.00 | ")
    assert lines[2].endswith(" | 87.50 | 43.33 | 2 |")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2), r"must give \(2,\), finite and not zero, got \(2,\) of norm 0"),
        (torch.ones(3), r"got \(3,\)"),
        (torch.tensor([1, math.nan]), "of norm nan"),
    ],
)
def test_bad_embeddings_are_one_clear_line(
    folders: Path, task: str, given: Tensor, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColourClassifier, "encode_image", lambda *_: given)
    with pytest.raises(ValueError, match=message):
        evaluate_classification(ColourClassifier(), task, root=folders)


def test_bad_input_is_one_clear_line(folders: Path, task: str, tmp_path: Path) -> None:
    assert isinstance(ColourClassifier(), Classifier)
    with pytest.raises(TypeError, match="object has no name, encode_text and encode_image"):
        evaluate_classification(object(), task)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="voc20@whole segments images"):
        evaluate_classification(ColourClassifier(), "voc20@whole")
    with pytest.raises(DataMissingError, match="say where with the data root"):
        evaluate_classification(ColourClassifier(), task)
    with pytest.raises(UsageError, match="limit must be >= 1, got 0"):
        evaluate_classification(ColourClassifier(), task, root=folders, limit=0)
    for path in folders.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataMissingError, match="none of 8 images could be read"):
        evaluate_classification(ColourClassifier(), task, root=folders)
    short = tmp_path / "short.toml"
    short.write_text('names = "ade150"\n' + TASK)
    with pytest.raises(FormatError, match="the task has 150 names, the data set 1000"):
        evaluate_classification(ColourClassifier(), str(short), root=folders)


FACTORY = """
import torch


class Shades:
    def __init__(self, name="shades", sign=1.0):
        self.name, self.sign = name, sign

    def encode_text(self, prompts):
        return torch.tensor([[p.count(c) - 0.7 for c in "aei"] for p in prompts])

    def encode_image(self, image):
        return self.sign * image.mean(dim=(1, 2)) + torch.tensor([0.1, 0.2, 0.3])


class Maps:
    name = "maps"
    encode_text = Shades.encode_text

    def segment(self, image, bank):
        return torch.zeros(len(bank), 1, 1)
"""
ID = "imagenet1k@groupvit"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Calls the command where a file of models lies."""
    (tmp_path / "shade_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shade_models", raising=False)

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def refused(result: tuple[int, str, str], code: int, message: str) -> None:
    got, _, err = result
    assert got == code, err
    assert message in err
    assert err.startswith("segbench: ")
    assert err.count("\n") == 1


def test_the_command_runs_compares_and_prints_tables(cli: Cli, flat: Path, tmp_path: Path) -> None:
    assert f"{ID}\tImageNet-1K" in cli("ls", "tasks")[1]
    common = ("run", "shade_models:Shades", ID, "--root", flat, "--allow_partial", "true")
    code, out, _ = cli(*common, "--out", tmp_path / "r/a")
    assert code == 0 and out.startswith(f"shades on {ID}: acc1 ")
    given = ("--option.name=dark", "--option.sign=-1.0")
    assert cli(*common, *given, "--out", tmp_path / "r/b")[0] == 0
    code, out, _ = cli(*common, "--out", tmp_path / "r/a", "--skip_existing", "true")
    assert code == 0 and out.startswith(f"shades on {ID}: acc1 ")
    pair = [tmp_path / "r" / name / ID for name in "ab"]
    code, out, _ = cli("compare", *pair)
    assert code == 0 and " acc1 [" in out and "over 8 images" in out
    refused(cli("page", pair[0], "--root", flat), 2, f"{ID} classifies images, a page shows label")
    code, out, _ = cli("table", tmp_path / "r")
    assert code == 0 and out.startswith("| task | model | images | acc1 |")
    code, out, _ = cli("table", tmp_path / "r", "--layout", "benchmarks", "--published", "true")
    assert code == 0 and out.splitlines()[0].endswith("| Avg | IN-1K acc1 |")
    assert "| shades | groupvit |" in out and "(quoted: CoCu, table 4)" in out


def test_a_table_of_both_kinds_has_a_part_for_each(
    cli: Cli, flat: Path, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    where = ("--out", tmp_path / "r")
    assert cli("run", "shade_models:Maps", mini_task, "--root", mini, *where)[0] == 0
    shades = ("run", "shade_models:Shades", ID, "--root", flat, "--allow_partial", "true")
    assert cli(*shades, *where)[0] == 0
    code, out, _ = cli("table", tmp_path / "r")
    heads = [line for line in out.splitlines() if line.startswith("| task ")]
    assert code == 0 and len(heads) == 2 and "mIoU" in heads[0] and "acc1" in heads[1]
    mixed = cli("compare", tmp_path / "r/mini@whole", tmp_path / "r" / ID)
    refused(mixed, 2, "runs differ in their protocol")


def test_exit_codes(cli: Cli, flat: Path, mini_task: Path, tmp_path: Path) -> None:
    common = ("run", "shade_models:Shades", ID)
    code, out, err = cli(*common, "--root", flat)
    assert code == 4 and "the data set has 8 images, 50000 are published" in err
    assert "warning: imagenet1k: 8 images, expected 50,000" in out
    refused(cli(*common), 3, "say where with the data root (--root)")
    refused(cli(*common, "--root", tmp_path / "none"), 3, "no data root at")
    (tmp_path / "empty").mkdir()
    refused(cli(*common, "--root", tmp_path / "empty"), 3, "no imagenet1k under")
    refused(cli(*common, "--root", flat, "--limit", "0"), 2, "limit must be >= 1")
    for option in (("--save_pred", "true"), ("--overlays", "2"), ("--metrics", "boundary")):
        wanted = f"{option[0]} is for label maps, and {ID} has none"
        refused(cli(*common, "--root", flat, *option), 2, wanted)
    refused(
        cli("run", "shade_models:Maps", ID, "--root", flat), 2,
        f"which lacks name, encode_text or encode_image; {ID} classifies whole images",
    )  # fmt: skip
    refused(cli("run", "shade_models:Shades", mini_task, "--root", flat), 2, "or segment")
    refused(cli("run", "shade_models:Shades", "imagenet1k@clip8"), 2, "did you mean 'imagenet1k@")
    refused(cli("score", tmp_path, ID), 2, f"{ID} classifies images")
    sweep = cli("sweep", "shade_models:Shades", ID, "--bg_thresh", "0:1:2")
    refused(sweep, 2, f"{ID} classifies images")
    refused(cli(*common, "--root", flat, "--data.layout=shards"), 3, "no imagenet1k under")
    refused(cli(*common, "--root", flat, "--data.split=val"), 1, "dataset.split")


def test_of_several_tasks_each_gets_what_it_needs(
    cli: Cli, flat: Path, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    """Both in one root: a model that can do both runs both, and label maps are saved of one."""
    shutil.copytree(mini, tmp_path / "root/mini")
    shutil.copytree(flat, tmp_path / "root/imagenet")
    text = mini_task.read_text().replace('kind = "folder"', 'kind = "folder"\nfolder = "mini"')
    mini_task.write_text(text)
    (tmp_path / "both_models.py").write_text(
        "import shade_models, torch\n"
        "class Both(shade_models.Shades):\n"
        "    def segment(self, image, bank):\n"
        "        return torch.zeros(len(bank), 1, 1)\n"
    )
    common = ("--root", tmp_path / "root", "--out", tmp_path / "o", "--allow_partial", "true")
    code, out, _ = cli(
        "run", "both_models:Both", f"{mini_task},{ID}", *common, "--save_pred", "true"
    )
    assert code == 0
    assert [line.split(": ")[0] for line in out.splitlines() if not line.startswith("  ")] == [
        "shades on mini@whole", f"shades on {ID}",
    ]  # fmt: skip
    assert (tmp_path / "o/mini@whole/predictions").is_dir()
    assert not (tmp_path / "o" / ID / "predictions").exists()
