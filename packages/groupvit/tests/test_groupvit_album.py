"""Many photographs, one after the other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groupvit import GroupViT, GroupViTSegmenter, open_photo
from groupvit.errors import DataError
from groupvit.segmenting import album
from groupvit.segmenting.album import segment_photos
from groupvit.segmenting.outputs import plan
from groupvit.segmenting.overlay import draw_overlay


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        coarse = random.integers(0, 256, (4, 4 + i, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80 + 10 * i, 80), Image.Resampling.NEAREST).save(path)
    return paths


def test_every_photograph_gets_its_own_labels(
    tiny_model: GroupViT, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album, "HELD", 2)
    segmenter, names = GroupViTSegmenter(tiny_model, precision="float32"), ["dog", "cat", "sky"]
    jobs = plan(photos, tmp_path / "out", labels=tmp_path / "ids", folders=True)
    done = list(segment_photos(segmenter, jobs, names, background=0.3, window_px=64))
    assert [path for path, _ in done] == photos
    bank = segmenter.encode_classes(names)
    for (path, share), job in zip(done, jobs, strict=True):
        photo = open_photo(path)
        labels = segmenter.label(photo, bank, background=0.3, window_px=64, stride_px=32).numpy()
        assert list(share) == ["background", *names]
        assert share["background"] == pytest.approx(float((labels == 0).mean()))
        assert sum(share.values()) == pytest.approx(1)
        assert job.labels is not None
        with Image.open(job.labels) as opened:
            assert np.array_equal(np.asarray(opened), labels)
        want = draw_overlay(photo, labels, list(share), background=True)
        assert np.array_equal(open_photo(job.overlay), np.asarray(want))


def test_a_photograph_is_written_before_the_next_are_read(
    tiny_model: GroupViT, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album, "HELD", 2)
    photos[3].write_text("no picture")
    jobs = plan(photos, tmp_path / "out", folders=True)
    running = segment_photos(GroupViTSegmenter(tiny_model), jobs, ["dog", "cat"])
    next(running)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]
    seen: list[str] = []
    with pytest.raises(DataError, match="1 of 5 pictures could not be read"):
        seen.extend(path.name for path, _ in running)
    assert seen == ["1.png", "2.png", "4.png"]
    assert not (tmp_path / "out" / "3.png").exists()


def test_photographs_at_once_and_their_groups(
    tiny_model: GroupViT, photos: list[Path], tmp_path: Path
) -> None:
    jobs = plan(photos[:1], tmp_path / "new.png", groups=tmp_path / "groups.png")
    segmenter = GroupViTSegmenter(tiny_model, precision="float32")
    ((_, share),) = segment_photos(segmenter, jobs, ["dog", "cat"], window_px=None)
    bank = segmenter.encode_classes(["dog", "cat"])
    labels = segmenter.label(open_photo(photos[0]), bank, window_px=None)
    assert share["cat"] == pytest.approx(float((labels == 1).float().mean()))
    assert open_photo(tmp_path / "groups.png").shape[1] >= 160  # two stages, side by side
