"""Killed, or shared by several processes, an evaluation gives what an unbroken one gives."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segbench import FormatError, Report, Segmenter, UsageError, evaluate, score_folder
from segbench.running.journal import Journal

SCRIPT = Path(__file__).with_name("resume_script.py")


def results(out: Path) -> dict[str, Any]:
    """What is in a results folder but the clock, the command and where it ran."""
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    for name in ("timing", "command"):
        del content[name]
    for name in ("confusion.npy", "per_image.npz"):
        content[name] = (out / name).read_bytes()
    return content


@pytest.fixture
def many(tmp_path: Path, tree: Callable[..., Path]) -> Path:
    """Twelve images of three classes, one of which cannot be read."""
    draw = np.random.default_rng(0)
    maps = {f"{i:02d}": draw.integers(-1, 3, (9, 7)) for i in range(12)}
    folder = tree(tmp_path / "many", maps)
    (folder / "images/val/07.png").write_bytes(b"broken")
    return folder


def command(task: Path, root: Path, out: Path, seconds: float, ranks: int = 1) -> list[str]:
    run = [str(SCRIPT), str(task), str(root), str(out), str(seconds)]
    if ranks == 1:
        return [sys.executable, *run]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc_per_node={ranks}", *run]


def finish(*args: Any) -> None:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stop", [0, 1, 6, 11])
def test_a_stopped_evaluation_goes_on_where_it_was(
    painted: Segmenter,
    many: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    monkeypatch.setattr(type(painted), "fingerprint", "weights 1", raising=False)
    evaluate(painted, str(mini_task), root=many, out=tmp_path / "unbroken")
    calls: list[int] = []
    segment = type(painted).segment

    def stops(self: Any, image: Any, bank: Any) -> Any:
        calls.append(1)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return segment(self, image, bank)

    monkeypatch.setattr(type(painted), "segment", stops)
    if stop < 11:  # images that can be read
        with pytest.raises(KeyboardInterrupt):
            evaluate(painted, str(mini_task), root=many, out=tmp_path / "out")
        assert not (tmp_path / "out/results.json").exists()
    evaluate(painted, str(mini_task), root=many, out=tmp_path / "out")
    assert len(calls) == 11 + (stop < 11)  # no image that was done is looked at again
    assert results(tmp_path / "out") == results(tmp_path / "unbroken")
    assert not (tmp_path / "out/journal").exists()


@pytest.mark.slow
def test_kills_and_other_numbers_of_processes_change_nothing(
    many: Path, mini_task: Path, tmp_path: Path
) -> None:
    finish(mini_task, many, tmp_path / "unbroken", 0)
    draw, killed = random.Random(0), 0
    while killed < 2:
        child = subprocess.Popen(command(mini_task, many, tmp_path / "out", 0.5))
        journal = tmp_path / "out/journal"
        begun = len(list(journal.glob("*"))) if journal.exists() else 0
        while not journal.exists() or len(list(journal.glob("*"))) == begun:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 1.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed += 1
    assert not (tmp_path / "out/results.json").exists()
    finish(mini_task, many, tmp_path / "out", 0, 3)
    assert results(tmp_path / "out") == results(tmp_path / "unbroken")
    finish(mini_task, many, tmp_path / "two", 0, 2)
    assert results(tmp_path / "two") == results(tmp_path / "unbroken")


def test_another_model_does_not_go_on(
    painted: Segmenter,
    constant: Callable[[int], Segmenter],
    many: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = type(painted).segment
    seen: list[int] = []

    def second(self: Any, image: Any, bank: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, image, bank)

    with monkeypatch.context() as patch:
        patch.setattr(type(painted), "segment", second)
        with pytest.raises(KeyboardInterrupt):
            evaluate(painted, str(mini_task), root=many, out=tmp_path)
    with pytest.raises(UsageError, match=r"of another evaluation \(its model is"):
        evaluate(constant(0), str(mini_task), root=many, out=tmp_path)
    with pytest.raises(UsageError, match=r"of another evaluation \(its pictures is"):
        evaluate(painted, str(mini_task), root=many, out=tmp_path, save_pred=True)
    with pytest.raises(UsageError, match=r"of another evaluation \(its root is"):
        evaluate(painted, str(mini_task), root=shutil.copytree(many, tmp_path / "c"), out=tmp_path)
    with pytest.raises(UsageError, match=r"of another evaluation \(its data is"):
        evaluate(painted, str(mini_task), root=many, out=tmp_path, limit=3)
    report = evaluate(constant(0), str(mini_task), root=many, out=tmp_path, overwrite=True)
    assert report.metrics["distinct_classes"] == 1


def test_results_that_are_there_stand_for_the_same_evaluation(
    painted: Segmenter, constant: Callable[[int], Segmenter], many: Path, mini_task: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    first = evaluate(painted, str(mini_task), root=many, out=tmp_path)
    again = evaluate(painted, str(mini_task), root=many, out=tmp_path, skip_existing=True)
    assert again == Report.read(tmp_path) == first
    for model, limit in ((constant(1), None), (painted, 5)):
        with pytest.raises(UsageError, match="holds results already of another task, model or"):
            evaluate(
                model, str(mini_task), root=many, out=tmp_path, limit=limit, skip_existing=True
            )


def test_saved_predictions_score_the_same(
    painted: Segmenter, many: Path, mini_task: Path, tmp_path: Path
) -> None:
    (many / "images/val/07.png").unlink()
    (many / "semantic_masks/val/07.png").unlink()
    report = evaluate(painted, str(mini_task), root=many, out=tmp_path / "out", save_pred=True)
    saved = score_folder(tmp_path / "out/predictions", str(mini_task), root=many)
    assert saved.metrics == report.metrics
    assert len(list((tmp_path / "out/predictions").iterdir())) == 11


def stop_at(painted: Segmenter, monkeypatch: pytest.MonkeyPatch, image: int) -> None:
    """Let the model be interrupted at an image, once."""
    real, seen = type(painted).segment, [0]

    def segment(self: Any, image_: Any, bank: Any) -> Any:
        seen[0] += 1
        if seen[0] == image:
            raise KeyboardInterrupt
        return real(self, image_, bank)

    monkeypatch.setattr(type(painted), "segment", segment)


def test_an_image_that_could_not_be_read_is_tried_again(
    painted: Segmenter, many: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(painted, monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        evaluate(painted, str(mini_task), root=many, out=tmp_path / "out")
    (many / "images/val/07.png").write_bytes((many / "images/val/06.png").read_bytes())
    report = evaluate(painted, str(mini_task), root=many, out=tmp_path / "out")
    assert (report.data["images_scored"], report.data["images_skipped"]) == (12, 0)
    assert report.warnings == (
        "went on from an earlier run whose model is known by its name alone",
    )


def test_the_speed_of_a_resumed_run_is_that_of_its_own_images(
    painted: Segmenter, many: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(painted).segment

    def slow(self: Any, image: Any, bank: Any) -> Any:
        time.sleep(0.05)
        return real(self, image, bank)

    monkeypatch.setattr(type(painted), "segment", slow)
    stop_at(painted, monkeypatch, 9)  # 8 are done, and 07 cannot be read
    with pytest.raises(KeyboardInterrupt):
        evaluate(painted, str(mini_task), root=many, out=tmp_path)
    report = evaluate(painted, str(mini_task), root=many, out=tmp_path)
    assert report.data["images_scored"] == 11
    timing = report.timing
    assert timing["images_per_s"] * timing["total_s"] == pytest.approx(3, rel=0.01)
    assert 3 * 0.05 <= timing["predict_s"] <= timing["total_s"]


def test_images_that_no_rank_has_done_are_an_error(
    painted: Segmenter, many: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reload = Journal.reload

    def loses(self: Journal) -> None:
        reload(self)
        del self.done[3]

    monkeypatch.setattr(Journal, "reload", loses)
    with pytest.raises(FormatError, match=r"journal: 1 of 12 images are not in it; all ranks need"):
        evaluate(painted, str(mini_task), root=many, out=tmp_path / "out")


def test_overwriting_takes_the_pictures_of_the_other_run_away(
    painted: Segmenter,
    constant: Callable[[int], Segmenter],
    many: Path,
    mini_task: Path,
    tmp_path: Path,
) -> None:
    evaluate(painted, str(mini_task), root=many, out=tmp_path, save_pred=True, overlays=2)
    evaluate(constant(0), str(mini_task), root=many, out=tmp_path, overwrite=True)
    assert not (tmp_path / "predictions").exists() and not (tmp_path / "overlays").exists()


def test_saved_maps_that_were_mended_are_scored_anew(
    many: Path, mini_task: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (many / "images/val/07.png").write_bytes((many / "images/val/06.png").read_bytes())
    for index in range(12):
        np.save(saved / f"{index:02d}.npy", np.full((9, 7), 9 if index == 5 else 0))
    with pytest.raises(FormatError, match="image 05: predictions must be in"):
        score_folder(saved, str(mini_task), root=many, out=tmp_path / "out")
    for index in range(12):
        np.save(saved / f"{index:02d}.npy", np.full((9, 7), 1))
    report = score_folder(saved, str(mini_task), root=many, out=tmp_path / "out")
    assert [row["pr_pixels"] > 0 for row in report.per_class] == [False, True, False]
