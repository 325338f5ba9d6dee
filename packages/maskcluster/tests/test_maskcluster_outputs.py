"""Files of the verbs: what is in them, resuming, photographs that fail, what is refused."""

import json
import logging
import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcluster.errors import DataError, UsageError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import Rle
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.segmenting import album
from maskcluster.segmenting.outputs import classify, segment
from maskcluster.segmenting.pictures import colours, draw_overlay, label_picture, shares
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))
NAMES = "dog, grass, sky"


class Held(dict[str, MaskSet]):
    """Masks in memory."""

    def keys(self) -> Sequence[str]:  # type: ignore[override]  # a mask source has a sequence
        return sorted(super().keys())


@pytest.fixture(scope="module")
def model() -> PixelCLIP:
    return PixelCLIP(restated.tiny_clip(), None).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, key in enumerate(("a", "b", "more/c")):
        drawn = np.random.default_rng(number).integers(0, 256, (30, 20 + 5 * number, 3), np.uint8)
        Image.fromarray(drawn).save(folder / f"{key}.png")
    return folder


def picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        opened.load()
        return opened


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def run(model: PixelCLIP, photos: Any, out: Path, **options: Any) -> Any:
    return segment(
        model, photos, out, **{"names": NAMES, "image_px": 32, "precision": "float32", **options}
    )


def test_every_photograph_has_its_labels_shares_and_overlay(
    model: PixelCLIP, photos: Path, tmp_path: Path
) -> None:
    report = run(model, photos, tmp_path / "out")
    segmenter = PixelCLIPSegmenter(model, precision="float32", image_px=32)
    total = np.zeros(3)
    for key in ("a", "b", "more/c"):
        photo = np.asarray(picture(photos / f"{key}.png"))
        want = segmenter.segment_photo(photo, ["dog", "grass", "sky"]).numpy()
        stored = picture(tmp_path / "out" / "labels" / f"{key}.png")
        assert stored.mode == "P" and np.array_equal(np.asarray(stored), want)
        table = json.loads((tmp_path / "out" / "photos" / f"{key}.json").read_text())
        share = [float((want == k).mean()) for k in range(3)]
        assert list(table["shares"].values()) == pytest.approx(share, abs=1e-5)
        assert set(table["shares"]) == {"dog", "grass", "sky"}
        assert (table["height"], table["width"]) == want.shape
        total += share
        overlay = picture(tmp_path / "out" / "overlays" / f"{key}.png")
        assert overlay.width >= photo.shape[1] and overlay.height > photo.shape[0]
    assert (report.done, report.made, report.skipped) == (3, 3, {})
    assert list(report.shares.values()) == pytest.approx(total / 3, abs=1e-5)
    assert report.lines()[0].endswith("\tdog") and report.lines()[-1].startswith("results\t")
    summary = json.loads((tmp_path / "out" / "report.json").read_text())
    assert summary["photographs"] == 3 and summary["shares"] == report.shares


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    model: PixelCLIP, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, photos, tmp_path / "whole", batch=1)
    draw, calls = draw_overlay, []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*given)

    monkeypatch.setattr(album, "draw_overlay", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, photos, tmp_path / "killed", batch=1)
    assert not (tmp_path / "killed" / "report.json").exists()
    report = run(model, photos, tmp_path / "killed", batch=1)
    assert (report.done, report.made) == (3, 2) and len(calls) == 4
    assert "there already\t1" in report.lines()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert run(model, photos, tmp_path / "killed").made == 0 and len(calls) == 4


def test_photographs_that_cannot_be_read_are_named_and_left_out(
    model: PixelCLIP, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        report = run(model, photos, tmp_path / "out")
    assert report.done == 2 and list(report.skipped) == ["b"] and "skipped\t1" in report.lines()
    assert len(caplog.messages) == 1 and "b.png: not a picture" in caplog.messages[0]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["skipped"] == report.skipped
    with pytest.raises(DataError, match=r"none of 1 photographs has results: .*b.png"):
        run(model, photos / "b.png", tmp_path / "none")


def test_other_results_are_not_written_over(model: PixelCLIP, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(model, photos, out)
    with pytest.raises(UsageError, match="results of other names, options or another model"):
        run(model, photos, out, names="dog, grass")
    with pytest.raises(UsageError, match="results of other names"):
        run(model, photos, out, grid=16)
    assert run(model, photos, out, names="dog, grass", overwrite=True).made == 3
    table = json.loads((out / "photos" / "a.json").read_text())
    assert list(table["shares"]) == ["dog", "grass"]
    with pytest.raises(UsageError, match=r"holds other things, such as"):
        run(model, photos, tmp_path)
    with pytest.raises(UsageError, match=r"--out needs the name of a folder, .*, got /.*o\.png$"):
        run(model, photos, tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
    with pytest.raises(UsageError, match="lies among the photographs"):
        run(model, photos, photos / "out")
    assert not (photos / "out").exists()


def test_masks_are_named_painted_and_listed(
    model: PixelCLIP, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = np.ones((30, 20), np.bool_), np.zeros((30, 20), np.bool_)
    part[3:9, 5:9] = True
    masks = Held(
        a=MaskSet.of(30, 20, [Rle.from_mask(m) for m in (whole, part, ~whole)]),
        b=MaskSet.of(30, 24, [Rle.from_mask(np.ones((30, 24), np.bool_))]),
    )
    masks["more/c"] = MaskSet.of(30, 30, [])
    report = classify(
        model, photos, masks, tmp_path / "out", names=NAMES, image_px=32, precision="float32"
    )
    assert report.done == 2
    assert report.skipped == {
        "b": "b: masks are of 30 x 24, the photograph is 30 x 25 (height x width)"
    }
    table = json.loads((tmp_path / "out" / "photos" / "a.json").read_text())["masks"]
    assert [row["area"] for row in table] == [600, 24, 0]
    assert [row["box"] for row in table] == [[0, 0, 20, 30], [5, 3, 9, 9], [0, 0, 0, 0]]
    assert table[2]["name"] is None and {row["name"] for row in table[:2]} <= {
        "dog",
        "grass",
        "sky",
    }
    labels = np.asarray(picture(tmp_path / "out" / "labels" / "a.png"))
    names = ["dog", "grass", "sky"]
    assert names[labels[4, 6]] == table[1]["name"] and names[labels[0, 0]] == table[0]["name"]
    bare = np.asarray(picture(tmp_path / "out" / "labels" / "more" / "c.png"))
    assert (bare == 255).all()
    del masks["b"]
    with pytest.raises(DataError, match="b: has no masks"):
        classify(
            model, [photos / "b.png"], masks, tmp_path / "none", names=NAMES, image_px=32
        )  # fmt: skip
    assert len(caplog.messages) == 2


def test_options_that_cannot_be_are_refused(model: PixelCLIP, photos: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"names": "a,,b"}, "is blank"),
        ({"image_px": 33}, "multiple of 8, got 33"),
        ({"batch": 0}, "--batch needs at least 1"),
        ({"grid": -1}, "--grid needs at least 0"),
        ({"precision": "half"}, "--precision must be"),
    ]
    for options, said in wrong:
        with pytest.raises(UsageError, match=said):
            run(model, photos, tmp_path / "out", **options)
    with pytest.raises(UsageError, match="--mask_px must be a multiple of 32"):
        classify(model, photos, Held(), tmp_path / "out", names=NAMES, mask_px=40)
    with pytest.raises(DataError, match="no such folder"):
        run(model, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_hold_the_labels() -> None:
    labels = np.array([[0, 2], [-1, 2]], np.int32)
    assert shares(labels, 3).tolist() == [0.25, 0, 0.5]
    few, many = label_picture(labels, 3), label_picture(labels, 300)
    assert few.mode == "P" and np.asarray(few).tolist() == [[0, 2], [255, 2]]
    assert np.asarray(many).tolist() == [[0, 2], [65535, 2]] and many.mode.startswith("I")
    with pytest.raises(ValueError, match="65535 classes"):
        label_picture(labels, 70000)
    palette = colours(255)
    assert len(np.unique(palette, axis=0)) == 255 and np.array_equal(colours(9), palette[:9])
    photo = np.full((2, 2, 3), 100, np.uint8)
    drawn = np.asarray(draw_overlay(photo, labels, ["a", "b", "c"]))
    tint = (0.45 * photo[0, 0] + 0.55 * colours(3)[2]).round()
    assert np.array_equal(drawn[0, 1], tint) and drawn[1, 0].tolist() == [45, 45, 45]
    assert np.asarray(draw_overlay(photo, labels * 0 - 1, [])).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="labels must be"):
        draw_overlay(photo, labels[:1], ["a", "b", "c"])
