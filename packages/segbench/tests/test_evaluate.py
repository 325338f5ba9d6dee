"""Whole evaluations whose result is known beforehand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segbench import (
    DataMissingError,
    FormatError,
    Report,
    Segmenter,
    UsageError,
    evaluate,
    load_task,
    score_folder,
)


def run(model: Segmenter, task: Path, root: Path, **options: Any) -> Report:
    return evaluate(model, str(task), root=root, **options)


def test_a_segmenter_that_is_always_right_scores_one(
    painted: Segmenter, mini: Path, mini_task: Path
) -> None:
    metrics = run(painted, mini_task, mini).metrics
    for name in ("miou", "miou_gt", "miou_all", "miou_image", "macc", "pixel_acc", "fwiou"):
        assert metrics[name] == 1, name
    assert metrics["present_recall"] == 1
    assert metrics["distinct_classes"] == metrics["distinct_classes_true"] == 3


def test_a_constant_segmenter_scores_the_closed_form(
    constant: Callable[[int], Segmenter], mini: Path, mini_task: Path
) -> None:
    report = run(constant(0), mini_task, mini)
    # 20 sky, 8 grass and 4 cat pixels, all called sky
    assert report.miou == pytest.approx((20 / 32) / 3, abs=1e-12)
    assert report.metrics["pixel_acc"] == 20 / 32
    assert report.metrics["macc"] == pytest.approx(1 / 3)
    assert report.metrics["fwiou"] == pytest.approx((20 / 32) ** 2)
    assert report.metrics["distinct_classes"] == 1
    assert report.metrics["present_recall"] == 2 / 6
    assert [row["gt_pixels"] for row in report.per_class] == [20, 8, 4]
    assert [row["pr_pixels"] for row in report.per_class] == [32, 0, 0]
    assert report.confusion.counts[:, 0].tolist() == [20, 8, 4]


def test_results_hold_what_a_reader_needs(
    painted: Segmenter, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    run(painted, mini_task, mini, out=tmp_path / "out", overlays=1)
    content = json.loads((tmp_path / "out/results.json").read_text())
    task = load_task(mini_task)
    assert content["schema_version"] == 1
    assert content["task"] == {"id": task.id, "version": 1, "hash": task.hash, "absent": "union"}
    assert content["model"] == {"name": "painted"}
    assert content["data"]["images_expected"] == content["data"]["images_scored"] == 2
    assert content["names"] == ["sky", "grass", "cat"]
    assert content["templates"] == ["a photo of a {}."]
    assert content["warnings"] == []
    assert content["timing"]["images_per_s"] > 0
    assert {"torch", "numpy", "python", "device"} <= set(content["environment"])
    confusion = np.load(tmp_path / "out/confusion.npy", allow_pickle=False)
    assert confusion.dtype == np.int64
    assert confusion.diagonal().tolist() == [20, 8, 4]
    assert [p.name for p in (tmp_path / "out/overlays").iterdir()] == ["a.png"]


def test_limit_is_recorded(painted: Segmenter, mini: Path, mini_task: Path) -> None:
    report = run(painted, mini_task, mini, limit=1)
    assert report.data["images_scored"] == 1
    assert "limited to the first 1 of 2 images" in report.warnings[0]
    assert run(painted, mini_task, mini, limit=9).warnings == ()
    with pytest.raises(UsageError, match="limit must be >= 1, got 0"):
        run(painted, mini_task, mini, limit=0)
    with pytest.raises(UsageError, match="overlays must be >= 0, got -1"):
        run(painted, mini_task, mini, overlays=-1)


def test_corrupt_image_is_skipped_counted_and_named(
    painted: Segmenter, mini: Path, mini_task: Path
) -> None:
    path = mini / "images/val/a.png"
    path.rename(path.with_suffix(".jpg"))
    path.with_suffix(".jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    report = run(painted, mini_task, mini)
    assert report.per_image.ids == ("b",)
    assert (report.data["images_expected"], report.data["images_skipped"]) == (2, 1)
    assert "a.jpg" in report.warnings[0]
    (mini / "images/val/b.png").write_bytes(b"")
    with pytest.raises(DataMissingError, match="none of 2 images could be read"):
        run(painted, mini_task, mini)


def test_rules_agree_where_nothing_absent_is_predicted(
    constant: Callable[[int], Segmenter], tmp_path: Path, mini_task: Path, tree: Callable[..., Path]
) -> None:
    half = tree(tmp_path / "half", {"a": np.repeat([[0, 1]], 4, axis=0)})
    report = run(constant(0), mini_task, half)
    assert "absent classes matter" not in report.summary()
    assert report.metrics["miou_union"] == report.metrics["miou_gt"] == 0.25
    assert report.metrics["miou_one"] == pytest.approx((0.5 + 0 + 1) / 3)


def test_both_rules_are_told_when_they_differ(
    painted: Segmenter, tmp_path: Path, mini_task: Path, tree: Callable[..., Path]
) -> None:
    one = tree(tmp_path / "one", {"a": np.array([[0, 0]]), "b": np.array([[0, 0]])})
    Image.fromarray(np.array([[[0] * 3, [20, 0, 0]]], dtype=np.uint8)).save(
        one / "images/val/b.png"
    )  # painted as cat: predicted, never true
    from_paint = run(painted, mini_task, one)
    assert from_paint.metrics["miou_gt"] == 3 / 4
    assert from_paint.metrics["miou_union"] == 3 / 8
    assert "0.3750 over union > 0, 0.7500 over gt > 0" in from_paint.summary()
    assert "2 of 3 classes have no labelled pixel" in from_paint.warnings[0]


def test_nothing_is_overwritten_unless_asked(
    painted: Segmenter, mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    run(painted, mini_task, mini, out=tmp_path / "out")
    with pytest.raises(UsageError, match="holds results already"):
        run(painted, mini_task, mini, out=tmp_path / "out")
    again = run(painted, mini_task, mini, out=tmp_path / "out", limit=1, overwrite=True)
    assert Report.read(tmp_path / "out").warnings == again.warnings


def test_a_run_that_dies_leaves_no_results(
    painted: Segmenter, mini: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    replaced = Path.replace
    done: list[Path] = []

    def dies_at_the_second(self: Path, target: Path) -> Path:
        done.append(target)
        if len(done) == 2:
            raise KeyboardInterrupt
        return replaced(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            run(painted, mini_task, mini, out=out)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["confusion.npy", "journal"]  # no JSON, no parts
    with pytest.raises(FormatError, match=r"results\.json: cannot be read"):
        Report.read(out)
    assert run(painted, mini_task, mini, out=out).miou == 1  # and can simply be run again
    assert not (out / "journal").exists()


def test_a_run_that_dies_while_overwriting_never_mixes_two_runs(
    painted: Segmenter, mini: Path, mini_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(painted, mini_task, mini, out=out)
    with monkeypatch.context() as patch:
        patch.setattr("segbench.results.stored.write_atomically", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(painted, mini_task, mini, out=out, overwrite=True)
    assert not (out / "results.json").exists()


def test_what_is_no_segmenter_is_refused(mini: Path, mini_task: Path) -> None:
    with pytest.raises(TypeError, match="object has no name, encode_text and segment"):
        run(object(), mini_task, mini)  # type: ignore[arg-type]  # the point of the test


def test_saved_label_maps_score_like_the_model_that_made_them(
    mini: Path, mini_task: Path, tmp_path: Path, maps: dict[str, Any]
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    first = np.where(maps["a"] < 0, 255, maps["a"]).astype(np.uint8)  # 255 only where ignored
    Image.fromarray(first).save(saved / "a.png")
    np.save(saved / "b.npy", np.zeros((4, 4), dtype=np.int64))
    report = score_folder(saved, str(mini_task), root=mini)
    assert report.model == {"name": "saved"}
    # b: 12 of 16 sky right, 2 grass and 2 cat called sky
    ious = [20 / 24, 6 / 8, 2 / 4]
    assert [row["iou"] for row in report.per_class] == pytest.approx(ious)


def test_mistakes_in_saved_label_maps_are_named(
    mini: Path, mini_task: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    with pytest.raises(DataMissingError, match=r"no prediction a\.png or a\.npy"):
        score_folder(saved, str(mini_task), root=mini)
    Image.new("L", (3, 3)).save(saved / "a.png")
    with pytest.raises(FormatError, match=r"a\.png: is \(3, 3\), its labels are \(6, 4\)"):
        score_folder(saved, str(mini_task), root=mini)
    np.save(saved / "a.npy", np.full((6, 4), 7))
    with pytest.raises(FormatError, match=r"image a: predictions must be in \[0, 3\), got 7 to 7"):
        score_folder(saved, str(mini_task), root=mini)


def test_equal_runs_give_equal_reports(painted: Segmenter, mini: Path, mini_task: Path) -> None:
    first, second = (run(painted, mini_task, mini) for _ in range(2))
    assert (first.metrics, first.interval, first.data) == (
        second.metrics,
        second.interval,
        second.data,
    )


@pytest.mark.parametrize("task", ["coco128_panoptic133@groupvit", "coco_mini81@tcl"])
def test_real_data_end_to_end(
    real_data: Path, task: str, constant: Callable[[int], Segmenter]
) -> None:
    report = evaluate(constant(0), task, root=real_data, limit=1)
    person = report.per_class[0 if "panoptic" in task else 1]
    assert person["name"] == "person"
    assert person["pr_pixels"] == sum(row["gt_pixels"] for row in report.per_class)
    assert report.metrics["distinct_classes"] == 1
    assert report.metrics["pixel_acc"] == person["gt_pixels"] / person["pr_pixels"]
