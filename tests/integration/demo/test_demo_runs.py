"""Finished stages are found, the newest of each name; what is missing is told with its command."""

import os
import sys
from pathlib import Path

import pytest

from integration.demo.__main__ import main
from integration.demo.runs import (
    BASELINE,
    CURATED,
    PLAIN,
    TUNED,
    archive_folders,
    how_to_make,
    model_folders,
    newest_stage,
    of_scenes,
)


def stage(out: Path, name: str, *, at: int | None = 0) -> Path:
    """A stage's folder, finished at a time; None for one that is not."""
    folder = out / "stages" / name
    folder.mkdir(parents=True)
    if at is not None:
        (folder / "stage.json").write_text("{}")
        os.utime(folder / "stage.json", (at, at))
    return folder


def test_the_newest_finished_stage_of_a_name_counts(tmp_path: Path) -> None:
    stage(tmp_path, "train-cocu-0-0123456789", at=10)
    newest = stage(tmp_path, "train-cocu-1-00000000ff", at=30)
    stage(tmp_path, "train-cocu-2-0123456789", at=20)
    stage(tmp_path, "train-cocu-3-0123456789", at=None)  # was killed
    for other in ("train-cocu-plus-0-0123456789", "train-cocu", "train-cocu-0-0123"):
        stage(tmp_path, other, at=99)
    assert newest_stage(tmp_path, "train-cocu") == newest
    assert newest_stage(tmp_path, "train") is None
    assert newest_stage(tmp_path / "nowhere", "train-cocu") is None


def test_an_archive_needs_all_its_stages(tmp_path: Path) -> None:
    for name in ("archive", "pairs", "clip"):
        stage(tmp_path, f"{name}-0123456789")
    assert archive_folders(tmp_path) is None
    embedded = stage(tmp_path, "embed-0123456789")
    found = archive_folders(tmp_path)
    assert found is not None
    assert (found.embedded, found.archive.name) == (embedded, "archive")


def test_each_model_comes_from_its_run(tmp_path: Path) -> None:
    cocu, pixelclip = tmp_path / "cocu", tmp_path / "pixelclip"
    curated = stage(cocu, "train-cocu-0-0123456789")
    stage(cocu, "clip-0123456789")  # a ResNet: not what plain CLIP is
    plain = stage(pixelclip, "clip-0-0123456789")
    found = model_folders(cocu, pixelclip)
    assert found == {BASELINE: None, CURATED: curated, TUNED: None, PLAIN: plain}
    tuned = stage(pixelclip, "train-pixelclip-0-0123456789", at=10)
    stage(pixelclip, "clip-1-0123456789", at=20)  # of a seed whose arm has not been trained yet
    found = model_folders(cocu, pixelclip)
    assert (found[TUNED], found[PLAIN]) == (tuned, plain)
    assert "`hatch run reproduce cocu`" in how_to_make(BASELINE)
    assert "`hatch run reproduce pixelclip`" in how_to_make(PLAIN)


def test_which_models_know_scenes_alone_is_told_from_their_runs(tmp_path: Path) -> None:
    cocu, pixelclip = tmp_path / "cocu", tmp_path / "pixelclip"
    pairs = stage(cocu, "pairs-0123456789")
    stage(cocu, "train-cocu-0-0123456789")
    stage(pixelclip, "train-pixelclip-0-0123456789")
    assert of_scenes(cocu, pixelclip) == ()  # of photographs
    (pairs / "truth.json").write_text("{}")
    assert of_scenes(cocu, pixelclip) == (CURATED,)
    stage(pixelclip, "captions-0123456789")
    assert of_scenes(cocu, pixelclip) == (CURATED, TUNED)


def test_without_its_extra_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path, "train-cocu-0-0123456789")
    monkeypatch.setitem(sys.modules, "starlette.datastructures", None)
    monkeypatch.delitem(sys.modules, "integration.demo.guard", raising=False)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main([f"--cocu={tmp_path}"]) == 1
    assert capsys.readouterr().err == "demo: needs gradio: pip install 'integration[demo]'\n"


def test_a_page_of_nothing_is_one_line_and_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--cocu={tmp_path / 'a'}", f"--pixelclip={tmp_path / 'b'}"]) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "hatch run reproduce cocu" in told
    assert str(tmp_path / "a") in told
