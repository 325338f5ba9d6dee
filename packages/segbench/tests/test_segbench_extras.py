"""Metrics beside the confusion matrix, from whole evaluations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from segbench import Report, Segmenter, UsageError, evaluate, load_task, open_dataset
from segbench.cli import main
from segbench.metrics.boundary import BoundaryCounts
from segbench.metrics.mask_accuracy import MaskAccuracy, Regions

BOTH = ("mask_acc", "boundary")


@pytest.fixture
def painted_over(tmp_path: Path, tree: Callable[..., Path]) -> Path:
    """Four images whose paint agrees with most of their labels."""
    draw = np.random.default_rng(0)
    maps = {f"{i}": np.kron(draw.integers(-1, 3, (4, 5)), np.ones((9, 8), int)) for i in range(4)}
    folder = tree(tmp_path / "over", maps)
    for path in (folder / "images/val").iterdir():
        with Image.open(path) as opened:
            pixels = np.array(opened)
        pixels[5:14, 3:20, 0] = 20
        Image.fromarray(pixels).save(path)
    return folder


def test_figures_are_those_of_the_classes_that_count_them(
    painted: Segmenter, painted_over: Path, mini_task: Path, tmp_path: Path
) -> None:
    task = load_task(mini_task)
    report = evaluate(painted, task, root=painted_over, metrics=BOTH, out=tmp_path / "out",
                      save_pred=True)  # fmt: skip
    plain = evaluate(painted, task, root=painted_over)
    assert plain.per_image.pairs.tolist() == report.per_image.pairs.tolist()
    assert plain.metrics.items() < report.metrics.items() and plain.definitions == {}
    bands, masks = BoundaryCounts(3), MaskAccuracy(3)
    dataset = open_dataset(task.dataset, painted_over)
    for index in range(len(dataset)):
        example = dataset[index]
        with Image.open(tmp_path / "out/predictions" / f"{example.id}.png") as opened:
            predicted = np.array(opened)
        bands.update(example.labels, predicted)
        masks.update(Regions.of_labels(example.labels, 3), predicted)
    assert report.metrics["boundary_miou"] == bands.miou() < 1
    assert report.metrics["mask_acc"] == masks.micro()
    assert report.metrics["mask_acc_macro"] == masks.macro()
    assert [row["boundary_iou"] for row in report.per_class] == bands.ious().tolist()
    assert set(report.definitions) == set(BOTH)
    assert Report.read(tmp_path / "out") == report


def test_they_survive_a_kill(
    painted: Segmenter,
    painted_over: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = evaluate(painted, str(mini_task), root=painted_over, metrics=BOTH)
    seen, segment = [], type(painted).segment

    def stops(self: Any, image: Tensor, bank: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, image, bank)

    monkeypatch.setattr(type(painted), "segment", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate(painted, str(mini_task), root=painted_over, metrics=BOTH, out=tmp_path)
    with pytest.raises(UsageError, match=r"its metrics is \['boundary', 'mask_acc'\]"):
        evaluate(painted, str(mini_task), root=painted_over, out=tmp_path)
    again = evaluate(painted, str(mini_task), root=painted_over, metrics=BOTH, out=tmp_path)
    assert again.metrics == whole.metrics and len(seen) == 5


def test_results_without_them_do_not_stand_for_results_with_them(
    painted: Segmenter, painted_over: Path, mini_task: Path, tmp_path: Path
) -> None:
    evaluate(painted, str(mini_task), root=painted_over, out=tmp_path)
    with pytest.raises(UsageError, match="holds results already"):
        evaluate(
            painted, str(mini_task), root=painted_over, out=tmp_path, metrics=BOTH,
            skip_existing=True,
        )  # fmt: skip


def test_the_command_names_them(
    mini: Path, mini_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    np.save(saved / "a.npy", np.zeros((6, 4), dtype=np.uint8))
    np.save(saved / "b.npy", np.zeros((4, 4), dtype=np.uint8))
    args = ["score", str(saved), str(mini_task), "--root", str(mini)]
    assert main([*args, "--metrics", "boundry"]) == 2
    assert "unknown metric 'boundry'; did you mean 'boundary'?" in capsys.readouterr().err
    assert main([*args, "--metrics", "boundary, mask_acc", "--out", str(tmp_path / "out")]) == 0
    assert "boundary_miou" in capsys.readouterr().out
    written = json.loads((tmp_path / "out/mini@whole/results.json").read_text())
    assert written["metrics"]["mask_acc"] == 2 / 6
    assert set(written["definitions"]) == set(BOTH)
