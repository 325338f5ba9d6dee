"""A sweep of the background threshold gives what an evaluation at every value gives."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segbench import Segmenter, Task, UsageError, evaluate, load_task, sweep
from segbench.cli import main

VALUES = (0.7, 0.0, 0.25, 0.25, 0.3, 0.5, 2.0)


class MixedSegmenter:
    """Scores between 0 and 1, many of them equal to a value of the sweep."""

    name = "mixed"

    def __init__(self) -> None:
        self.calls = 0

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.eye(len(prompts), 4) + 0.1

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        self.calls += 1
        raw = torch.stack([image[0], 1 - image[0], image[1]])[: len(bank)]  # (K - 1, H, W)
        return (raw * 20).round() / 20


@pytest.fixture
def noisy(tmp_path: Path, tree: Callable[..., Path]) -> Path:
    """Three images, whose paint does not tell their labels, with ignored pixels."""
    draw = np.random.default_rng(1)
    folder = tree(tmp_path / "noisy", {f"{i}": draw.integers(-1, 3, (17, 23)) for i in range(3)})
    for path in sorted((folder / "images/val").iterdir()):
        Image.fromarray(draw.integers(0, 256, (17, 23, 3), dtype=np.uint8)).save(path)
    return folder


def task_of(mini_task: Path, policy: Any, label: int, window: int | None) -> Task:
    return replace(
        load_task(mini_task),
        background=policy,
        background_label=label,
        background_scale=3.0 if policy == "softmax_floor" else 1.0,
        short_px=20,
        window_px=window,
        stride_px=window and 6,
    )


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("policy", ["constant", "softmax_floor", "threshold"])
def test_every_value_scores_as_its_own_evaluation(
    noisy: Path, mini_task: Path, policy: str, label: int, window: int | None
) -> None:
    task, model = task_of(mini_task, policy, label, window), MixedSegmenter()
    found = sweep(model, task, VALUES, root=noisy)
    seen = model.calls
    assert found.values == (0.0, 0.25, 0.3, 0.5, 0.7, 2.0) and found.images == 3
    assert len(set(found.miou)) > 2
    for place, value in enumerate(found.values):
        report = evaluate(model, replace(task, background_value=value), root=noisy)
        assert found.miou[place] == report.miou
        assert found.miou_fg[place] == pytest.approx(report.metrics["miou_fg"], nan_ok=True)
        assert found.pixel_acc[place] == report.metrics["pixel_acc"]
    assert model.calls == 7 * seen  # the sweep looked at every image once


def test_a_sweep_goes_on_and_is_written(
    noisy: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = task_of(mini_task, "constant", 0, None), MixedSegmenter()
    whole, real = sweep(model, task, VALUES, root=noisy), MixedSegmenter.segment

    def stops(self: MixedSegmenter, image: Tensor, bank: Tensor) -> Tensor:
        if self.calls == 5:
            raise KeyboardInterrupt
        return real(self, image, bank)

    with monkeypatch.context() as patch:
        patch.setattr(MixedSegmenter, "segment", stops)
        with pytest.raises(KeyboardInterrupt):
            sweep(model, task, VALUES, root=noisy, out=tmp_path / "out")
    with pytest.raises(UsageError, match="of another evaluation"):
        sweep(model, task, VALUES[:2], root=noisy, out=tmp_path / "out")
    assert sweep(model, task, VALUES, root=noisy, out=tmp_path / "out") == whole
    assert model.calls == 3 + 3
    written = json.loads((tmp_path / "out/sweep.json").read_text())
    assert written["best"] == whole.best and written["kind"] == "segbench-sweep"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.json"]
    with pytest.raises(UsageError, match="holds results already"):
        sweep(model, task, VALUES, root=noisy, out=tmp_path / "out")


def test_what_cannot_be_swept_is_one_line(
    painted: Segmenter, mini: Path, mini_task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="mini@whole has no background policy"):
        sweep(painted, str(mini_task), [0.5], root=mini)
    task = task_of(mini_task, "constant", 0, None)
    with pytest.raises(UsageError, match="at least one value"):
        sweep(painted, task, [], root=mini)
    with pytest.raises(UsageError, match=r"must be finite, got \[0.5, nan\]"):
        sweep(painted, task, [0.5, float("nan")], root=mini)
    for text in ("0:1", "a,b", "0:1:x"):
        code = main(["sweep", "m:f", str(mini_task), "--bg_thresh", text])
        err = capsys.readouterr().err
        assert code == 2 and f"LOW:HIGH:N or numbers, got '{text}'" in err


@pytest.fixture
def command(mini: Path, mini_task: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sweeps `mini` at three values."""
    text = 'background = "constant"\nbackground_value = 0.5\n'
    mini_task.write_text(text + mini_task.read_text())
    monkeypatch.setitem(sys.modules, "m", SimpleNamespace(f=MixedSegmenter))
    return ["sweep", "m:f", str(mini_task), "--root", str(mini), "--bg_thresh", "0:1:3"]


def test_the_command_prints_a_line_a_value(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in out[1:4]] == ["0", "0.5", "1"]
    assert out[4].startswith("best ") and out[4].endswith("tuned on these 2 images")
    assert (tmp_path / "out/mini@whole/sweep.json").is_file()


def test_an_incomplete_data_set_is_code_4_unless_allowed(
    command: list[str],
    mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(command) == 0
    monkeypatch.setattr("segbench.datasets.FolderDataset.expected_images", 5, raising=False)
    capsys.readouterr()
    assert main(command) == 4
    err = capsys.readouterr().err
    assert err.startswith("segbench: mini@whole: the data set has 2 images, 5 are published")
    assert main([*command, "--allow_partial", "true"]) == 0
    (mini / "images/val/a.png").write_bytes(b"broken")
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "out")]) == 4
    out, err = capsys.readouterr()
    assert err.startswith("segbench: mini@whole: 1 images could not be read") and "skipped: " in out
    assert err.count("\n") == 1
    written = json.loads((tmp_path / "out/mini@whole/sweep.json").read_text())
    found = [written[f"images{part}"] for part in ("", "_in_dataset", "_published")]
    assert found == [1, 2, 5]
