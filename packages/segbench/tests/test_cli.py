"""Command line: output, exit codes, errors of one line."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segbench import Report, Segmenter
from segbench.cli import console, main

FACTORY = """
import torch

class Model:
    def __init__(self, label):
        self.label = label
        self.name = f"all-{label}"

    def encode_text(self, prompts):
        return torch.ones(len(prompts), 4)

    def segment(self, image, bank):
        scores = torch.zeros(len(bank), 1, 1)
        scores[self.label] = 1
        return scores

def make(label=0):
    return Model(label)

def nothing():
    return 3
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return "my_models:make"


def refused(result: tuple[int, str, str], code: int, message: str) -> None:
    got, _, err = result
    assert got == code, err
    assert message in err
    assert err.startswith("segbench: ")
    assert err.count("\n") == 1


def test_what_the_hub_logs_comes_once() -> None:
    """It has a handler of its own; passed on to the command's, every line would come twice."""
    hub = logging.getLogger("huggingface_hub")
    hub.propagate = True
    assert main(["table", "nowhere"]) == 3
    assert not hub.propagate


def test_ls(cli: Run) -> None:
    code, out, _ = cli("ls", "tasks")
    assert code == 0
    assert any(line.startswith("camvid11@groupvit\tCamVid") for line in out.splitlines())
    assert "clip_imagenet_80" in cli("ls", "prompts")[1].split()
    assert "voc21" in cli("ls", "names")[1].split()


def test_run_table_compare(
    cli: Run, factory: str, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    common = ("run", factory, mini_task, "--root", mini)
    code, out, _ = cli(*common, "--out", tmp_path / "r/sky")
    assert code == 0
    assert out.startswith("all-0 on mini@whole: mIoU 0.2083")
    assert Report.read(tmp_path / "r/sky/mini@whole").metrics["pixel_acc"] == 20 / 32
    assert cli(*common, "--out", tmp_path / "r/grass", "--option.label=1")[0] == 0
    assert cli(*common, "--option", '{"label": 2}')[1].startswith("all-2 on")

    code, out, _ = cli("table", tmp_path / "r")
    assert code == 0
    assert [line.split(" | ")[1] for line in out.splitlines()[2:]] == ["all-0", "all-1"]
    results = [tmp_path / "r" / name / "mini@whole" for name in ("sky", "grass")]
    code, out, _ = cli("compare", *results)
    assert code == 0
    assert f"all-1 - all-0 = {100 * (8 - 20) / 96:+.2f} mIoU" in out


def test_run_on_several_tasks(cli: Run, factory: str, mini: Path, mini_task: Path) -> None:
    code, out, _ = cli("run", factory, f"{mini_task},{mini_task}", "--root", mini)
    assert (code, out.count("all-0 on mini@whole")) == (0, 2)


def test_score(cli: Run, mini: Path, mini_task: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    np.save(saved / "a.npy", np.zeros((6, 4), dtype=np.uint8))
    np.save(saved / "b.npy", np.zeros((4, 4), dtype=np.uint8))
    code, out, _ = cli("score", saved, mini_task, "--root", mini, "--out", tmp_path / "out")
    assert code == 0
    assert out.startswith("saved on mini@whole: mIoU 0.2083")
    refused(
        cli("score", saved, mini_task, "--root", mini, "--out", tmp_path / "out"),
        2,
        "holds results already",
    )


def test_wrong_usage_is_one_line_and_code_2(cli: Run, factory: str, mini_task: Path) -> None:
    refused(cli("rnu"), 2, "invalid choice: 'rnu'")
    refused(cli(), 2, "subcommand")
    refused(cli("run", factory, mini_task, "--limt", "3"), 2, "--limt")
    refused(cli("run", factory, mini_task, "--limit", "few"), 2, "few")
    refused(cli("run", factory, "camvid@groupvit"), 2, "did you mean 'camvid11@groupvit'")
    refused(cli("run", "no_such_module:make", mini_task), 2, "No module named")
    refused(cli("run", "my_models:mak", mini_task), 2, "has no attribute 'mak'")
    refused(cli("run", "my_models", mini_task), 2, "your own is named package.module:callable")
    refused(cli("run", "maskclp", mini_task), 2, "unknown model 'maskclp'; did you mean 'maskclip'")
    refused(cli("doctor", mini_task.parent, "--sample", "-1"), 2, "sample must be >= 0, got -1")
    refused(cli("run", "my_models:nothing", mini_task), 2, "gave a int, which lacks")
    refused(cli("run", factory, mini_task, "--option.colour=3"), 2, "colour")


def test_missing_data_is_one_line_and_code_3(
    cli: Run, factory: str, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    refused(cli("run", factory, mini_task), 3, "--root")
    refused(cli("run", factory, mini_task, "--root", tmp_path / "no"), 3, "no data root at")
    refused(cli("table", tmp_path), 3, "no results.json under")
    (mini / "semantic_masks/val/a.png").unlink()
    refused(cli("run", factory, mini_task, "--root", mini), 3, "has no mask")


def test_wrong_data_is_one_line_and_code_1(
    cli: Run, factory: str, mini: Path, mini_task: Path
) -> None:
    (mini / "labels.tsv").write_text("mask_value\tname\n0\tsky\n1\tgrass\n")
    refused(cli("run", factory, mini_task, "--root", mini), 1, "mask value 2 is not in")
    mini_task.write_text("windw_px = 3\n" + mini_task.read_text())
    refused(cli("run", factory, mini_task, "--root", mini), 1, "did you mean 'window_px'?")
    mini_task.write_bytes("summary = 'Äcker'\n".encode("latin-1"))
    refused(cli("run", factory, mini_task, "--root", mini), 1, "a task file must be UTF-8")


def test_a_skipped_image_is_code_4_unless_allowed(
    cli: Run, factory: str, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    (mini / "images/val/a.png").write_bytes(b"broken")
    common = ("run", factory, mini_task, "--root", mini)
    code, out, err = cli(*common, "--out", tmp_path / "out")
    assert code == 4
    assert "1 images could not be read" in err
    assert "skipped: " in out
    assert Report.read(tmp_path / "out/mini@whole").data["images_skipped"] == 1
    assert cli(*common, "--allow_partial", "true")[0] == 0


def test_help_names_every_option(cli: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli("run", "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--root", "--out", "--option", "--limit", "--device", "--overlays"):
        assert option in text


def test_console_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["segbench", "table", "/nonexistent"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        console()
    assert caught.value.code == 3


def test_segmenter_protocol_is_structural(painted: Segmenter) -> None:
    assert isinstance(painted, Segmenter)
    assert not isinstance(object(), Segmenter)


def test_doctor_says_what_lies_under_a_root(cli: Run, tmp_path: Path) -> None:
    refused(cli("doctor", tmp_path / "none"), 3, "no data root at")
    labels = tmp_path / "ADEChallengeData2016/annotations/validation"
    images = tmp_path / "ADEChallengeData2016/images/validation"
    for folder, suffix in ((labels, "png"), (images, "jpg")):
        folder.mkdir(parents=True)
        for index in range(2):
            picture = Image.new("L" if suffix == "png" else "RGB", (6, 4), index)
            picture.save(folder / f"ADE_val_0000000{index}.{suffix}")
    code, out, _ = cli("doctor", tmp_path)
    assert code == 0 and "ade150" in out and "2,000" in out


def test_another_number_of_images_than_published_is_code_4_unless_allowed(
    cli: Run, factory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test_doctor_says_what_lies_under_a_root(cli, tmp_path)
    common = ("run", factory, "ade150@whole", "--root", tmp_path)
    code, out, err = cli(*common)
    assert code == 4 and "2 images, expected 2,000" in out
    assert "the data set has 2 images, 2000 are published" in err and err.count("\n") == 1
    assert cli(*common, "--allow_partial", "true")[0] == 0
    assert cli(*common, "--allow_partial", "true", "--data.layout=scene_parsing")[0] == 0
    refused(cli(*common, "--data.layout=scene"), 2, "known: detectron2, scene_parsing")
    refused(cli(*common, "--data.colour=red"), 1, "dataset.colour")
    assert "expected 2,000" in caplog.text


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("torch.zeros(len(bank), 1, 1)", "torch.zeros(len(bank), 1)", "(19, h, w), got (19, 1)"),
        ("scores[self.label] = 1", "scores[3] = torch.nan", "scores not finite or beyond 1e34"),
        ("scores[self.label] = 1", "scores[3] = -3e38", "-1e30 does for -inf"),
        ("return scores", "return scores.numpy()", "a tensor of scores, got ndarray"),
        ("return torch.ones(len(prompts), 4)", "return None", "a tensor, got NoneType"),
        ("torch.ones(len(prompts), 4)", "torch.ones(4)", "prompts gave (4,)"),
        ("torch.ones(len(prompts), 4)", "torch.full((len(prompts), 4), torch.nan)", "not finite"),
    ],
)
def test_a_model_that_gives_nonsense_is_one_line(
    right: str,
    wrong: str,
    message: str,
    cli: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert FACTORY.count(right) == 1
    module = f"nonsense{abs(hash((right, wrong)))}"
    (tmp_path / f"{module}.py").write_text(FACTORY.replace(right, wrong))
    refused(cli("run", f"{module}:make", "scenes@whole", "--limit", "1"), 1, message)


def test_a_reader_that_stops_reading_ends_it_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from segbench.cli import console; console()", "ls", "tasks"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
