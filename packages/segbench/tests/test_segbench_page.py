"""The page of worst and best images."""

import base64
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segbench import (
    DataMissingError,
    Segmenter,
    UsageError,
    evaluate,
    load_task,
    write_page,
)
from segbench.cli import main


@pytest.fixture
def ranked(tmp_path: Path, tree: Callable[..., Path]) -> Path:
    """Images a to e, of which more and more is class 0; b cannot be read."""
    maps = {name: np.zeros((8, 10), np.int64) for name in "abcde"}
    for rows, labels in enumerate(maps.values()):
        labels[: 2 * rows % 8] = 1
    folder = tree(tmp_path / "ranked", maps)
    (folder / "images/val/b.png").write_bytes(b"broken")
    return folder


def figures(page: Path) -> list[tuple[str, float]]:
    found = re.findall(r"<figcaption>(\w+): mIoU ([0-9.]+) ", page.read_text())
    return [(name, float(score)) for name, score in found]


def test_the_worst_come_first_and_pictures_are_inside(
    constant: Callable[[int], Segmenter], ranked: Path, mini_task: Path, tmp_path: Path
) -> None:
    out, task = tmp_path / "out", load_task(mini_task)
    evaluate(constant(0), task, root=ranked, out=out, save_pred=True)
    page = write_page(out, root=ranked, task=task, count=2)
    # share of class 0 in a, c, d and e: 1, 1/2, 1/4, 1; mean over it and the class that is not said
    assert figures(page) == [("d", 12.5), ("c", 25.0), ("e", 100.0), ("a", 100.0)]
    text = page.read_text()
    pictures = re.findall(r"base64,([^\"]+)", text)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size[0] > 3 * 10 and picture.size[1] >= 8
    assert "http" not in text.replace("http-equiv", "") and "sky" in text
    assert len(figures(write_page(out, root=ranked, task=task, count=9))) == 4


def test_what_stands_in_the_way_is_one_line(
    constant: Callable[[int], Segmenter],
    ranked: Path,
    mini_task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = load_task(mini_task)
    evaluate(constant(0), task, root=ranked, out=tmp_path / "bare")
    with pytest.raises(DataMissingError, match="no saved predictions; evaluate with --save_pred"):
        write_page(tmp_path / "bare", root=ranked, task=task)
    evaluate(constant(0), task, root=ranked, out=tmp_path / "out", save_pred=True)
    with pytest.raises(UsageError, match="count must be >= 1, got 0"):
        write_page(tmp_path / "out", root=ranked, task=task, count=0)
    with pytest.raises(UsageError, match="another version of camvid11@groupvit"):
        write_page(tmp_path / "out", root=ranked, task=load_task("camvid11@groupvit"))
    with pytest.raises(UsageError, match="mini@whole is no task of the package; give its file"):
        write_page(tmp_path / "out", root=ranked)
    (ranked / "images/val/d.png").rename(ranked / "images/val/z.png")
    (ranked / "semantic_masks/val/d.png").rename(ranked / "semantic_masks/val/z.png")
    with pytest.raises(DataMissingError, match="image d of the results is not at its place"):
        write_page(tmp_path / "out", root=ranked, task=task)
    args = ["page", str(tmp_path / "out"), "--root", str(ranked), "--task", str(mini_task)]
    assert main([*args, "--count", "0"]) == 2
    (ranked / "images/val/z.png").rename(ranked / "images/val/d.png")
    (ranked / "semantic_masks/val/z.png").rename(ranked / "semantic_masks/val/d.png")
    capsys.readouterr()
    assert main(args) == 0
    assert capsys.readouterr().out.strip().endswith("page.html")


def test_a_run_with_options_of_the_data_set_has_a_page(
    painted: Segmenter,
    ranked: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "m", SimpleNamespace(f=lambda: painted))
    for part in ("images", "semantic_masks"):
        (ranked / part / "val").rename(ranked / part / "test")
    data = ["--data.images=images/test", "--data.masks=semantic_masks/test"]
    common = ["--out", str(tmp_path), "--save_pred=true", "--allow_partial=true"]
    root = ["--root", str(ranked)]
    assert main(["run", "m:f", str(mini_task), *root, *data, *common]) == 0
    result = str(tmp_path / "mini@whole")
    assert main(["page", result, *root, "--task", str(mini_task)]) == 0
    assert [name for name, _ in figures(tmp_path / "mini@whole/page.html")] == list("acde")

    assert main(["run", "m:f", "scenes@whole", "--data.count=3", *common]) == 0
    assert main(["page", str(tmp_path / "scenes@whole")]) == 0  # a task of the package: no file
    assert (tmp_path / "scenes@whole/page.html").read_text().count("<figcaption>") == 3
