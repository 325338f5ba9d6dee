"""The examples run, say what they promise, and use only what the packages make public."""

import ast
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PACKAGES = ("conceptarchive", "groupvit", "maskcluster", "segbench", "integration")
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example in an empty folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str) -> str:
        path = ROOT / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_curate_a_folder(run: Run) -> None:
    """What a caption leaves out is found beside what it names, and no third thing is."""
    lines = run("curate_a_folder").splitlines()
    for line, said, missing in zip(
        lines, ("fire", "grass", "sky"), ("grass", "sky", "fire"), strict=True
    ):
        caption, _, found = line.partition(" shows ")
        assert caption == f"'a picture of {said}'"
        assert {one.split()[0] for one in found.split(", ")} == {said, missing}


def test_curate_a_folder_of_ones_own(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for key, colour, caption in (
        ("a", "green", "A dog on the grass"),
        ("b", "green", "a dog"),
        ("c", "blue", "A boat"),
    ):
        Image.new("RGB", (20, 20), colour).save(mine / f"{key}.jpg")
        (mine / f"{key}.txt").write_text(caption)
    before = sorted(mine.iterdir())
    lines = run("curate_a_folder", "mine").splitlines()
    assert [line.partition(" shows ")[0] for line in lines] == [
        "'A dog on the grass'", "'a dog'", "'A boat'",
    ]  # fmt: skip
    assert "grass" in lines[1]  # which its caption leaves out
    assert sorted(mine.iterdir()) == before and not (tmp_path / "runs" / "drawn").exists()


def test_segment_a_photo_says_what_runs_first(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^runs/trained/run: no such run; first run examples/tr"):
        run("segment_a_photo")
    assert not list(tmp_path.iterdir())


def test_train_and_segment_a_photo(run: Run, tmp_path: Path) -> None:
    told = run("train_groupvit")
    assert told.startswith("200 pairs, 0 left out\ncheckpoint: runs/trained/run/checkpoint-")
    told = run("segment_a_photo", "runs/trained/run", "runs/scene.png", "grass, sky")
    shares, overlay = told.splitlines()
    assert [part.split()[0] for part in shares.split("; ")] == ["grass", "sky"]
    assert (tmp_path / overlay.removeprefix("overlay: ")).is_file()


def test_generate_masks(run: Run, tmp_path: Path) -> None:
    *masks, sheet = run("generate_masks").splitlines()
    assert len(masks) == 6 and all(" masks, the largest of " in line for line in masks)
    assert (tmp_path / sheet.removeprefix("sheet: ")).is_file()
    assert run("generate_masks").splitlines() == [*masks, sheet]  # it goes on from what is there


def test_score_a_segmenter(run: Run) -> None:
    told = run("score_a_segmenter")
    assert told.startswith("bright on scenes@whole: mIoU ")
    assert "dark" in told


def test_all_together(run: Run) -> None:
    told = run("all_together")
    assert told.startswith("groupvit ")
    assert " in superpixels on scenes@whole: mIoU " in told


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            first = node.module.partition(".")[0]
            assert first not in PACKAGES or node.module == first, node.module
    about = tree.body[0]
    assert about.end_lineno is not None
    lines = path.read_text(encoding="utf-8").splitlines()[about.end_lineno :]
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 42
    assert f"examples/{path.name}" in (ast.get_docstring(tree) or "")
    assert f"({path.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
