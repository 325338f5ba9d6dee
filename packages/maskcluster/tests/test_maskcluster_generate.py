import logging
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcluster.errors import DataError, UsageError
from maskcluster.files import folder_lock
from maskcluster.generators.generate import generate
from maskcluster.generators.protocol import Photo
from maskcluster.generators.superpixels import Slic
from maskcluster.masks.mask_set import MaskRules, MaskSet
from maskcluster.masks.rle import Rle
from maskcluster.masks.store import MANIFEST, MaskStore

SLIC = Slic(segments=6)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "in").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("in" if i % 2 else "") / f"p{i}.png")
    Image.new("L", (20, 20), 50).save(folder / "q1.png")
    Image.new("CMYK", (20, 20)).save(folder / "q2.jpg")
    (folder / "q3.jpg").write_bytes(b"none")
    return folder


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_photograph_has_masks_or_a_reason(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report = generate(photos, tmp_path / "store", SLIC, part_size=4, batch_size=3)
    store = MaskStore.open(tmp_path / "store")
    store.check()
    expected = ["in/p1", "in/p3", "in/p5", "p0", "p2", "p4", "p6", "q1", "q2"]
    assert list(store.keys()) == expected
    assert store.skipped.keys() == {"q3"}
    assert "q3.jpg: not a picture" in store.skipped["q3"]
    assert "q3.jpg" in caplog.text
    assert report.made == 9
    assert report.converted == {"L to RGB": 1, "CMYK to RGB": 1}
    assert store.mask_count == sum(len(store[key]) for key in expected)
    direct = SLIC(np.asarray(Image.open(photos / "p2.png")))
    assert store["p2"].masks == direct.masks
    lines = "\n".join(report.lines())
    for text in ("masks of 9 photographs", "1 CMYK to RGB, 1 L to RGB", "1 photographs could not"):
        assert text in lines
    assert store.generator["name"] == "slic"


def test_the_size_of_batches_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    for size in (1, 4, 99):
        generate(photos, tmp_path / str(size), SLIC, part_size=4, batch_size=size)
    assert all_bytes(tmp_path / "1") == all_bytes(tmp_path / "4") == all_bytes(tmp_path / "99")


class StoppedError(Exception):
    """Stands for a kill."""


class StopsAfter:
    """Works as another generator, so many times."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.description = SLIC.description

    def __call__(self, photo: Photo) -> MaskSet:
        if self.count == 0:
            raise StoppedError
        self.count -= 1
        return SLIC(photo)


@pytest.mark.parametrize("after", [0, 1, 4, 6, 8])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    photos: Path, tmp_path: Path, after: int
) -> None:
    whole = generate(photos, tmp_path / "whole", SLIC, part_size=4).store
    with pytest.raises(StoppedError):
        generate(photos, tmp_path / "cut", StopsAfter(after), part_size=4, batch_size=1)
    with pytest.raises(DataError, match="was stopped"):
        MaskStore.open(tmp_path / "cut")
    report = generate(photos, tmp_path / "cut", SLIC, part_size=4)
    assert report.made == 9 - after // 4 * 4
    assert report.store.fingerprint == whole.fingerprint
    assert all_bytes(tmp_path / "cut") == all_bytes(tmp_path / "whole")


def test_run_again_it_has_nothing_to_do(photos: Path, tmp_path: Path) -> None:
    first = generate(photos, tmp_path / "store", SLIC)
    before = all_bytes(tmp_path / "store")
    again = generate(photos, tmp_path / "store", StopsAfter(0))
    assert again.made == 0
    assert all_bytes(tmp_path / "store") == before
    assert again.lines()[0] == first.lines()[0]
    assert "9 photographs were there already" in again.lines()


@pytest.mark.slow
def test_killed_by_a_signal_it_goes_on_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    generate(photos, tmp_path / "whole", SLIC, part_size=2)
    cut = tmp_path / "cut"
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from maskcluster.generators.generate import generate
        from maskcluster.generators.superpixels import Slic

        class Slow:
            description = Slic(segments=6).description
            def __call__(self, photo):
                time.sleep(0.15)
                return Slic(segments=6)(photo)

        generate(Path({str(photos)!r}), Path({str(cut)!r}), Slow(), part_size=2, batch_size=1)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not (cut / "masks-00001.arrow").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(list(cut.glob("*.arrow"))) < 5
    generate(photos, cut, SLIC, part_size=2)
    assert {k: v for k, v in all_bytes(cut).items() if k != ".lock"} == all_bytes(
        tmp_path / "whole"
    )


def test_two_generators_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    generate(photos, tmp_path / "store", SLIC)
    with pytest.raises(UsageError, match="another generator"):
        generate(photos, tmp_path / "store", Slic(segments=7))
    with pytest.raises(UsageError, match="another generator"):
        generate(photos, tmp_path / "store", SLIC, rules=MaskRules(min_area=9))


def test_two_processes_do_not_write_one_store(photos: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "store"), pytest.raises(UsageError, match="another process"):
        generate(photos, tmp_path / "store", SLIC)


def test_a_list_of_files(photos: Path, tmp_path: Path) -> None:
    files = [photos / "p2.png", photos / "in/p1.png"]
    assert list(generate(files, tmp_path / "store", SLIC).store.keys()) == ["p1", "p2"]


class Batched:
    """Notes how many photographs it is given at a time."""

    description: Mapping[str, Any] = {"name": "batched"}

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, photo: Photo) -> MaskSet:
        return self.many([photo])[0]

    def many(self, photos: Sequence[Photo]) -> list[MaskSet]:
        self.sizes.append(len(photos))
        return [SLIC(photo) for photo in photos]


def test_batches_end_where_parts_end(photos: Path, tmp_path: Path) -> None:
    batched = Batched()
    generate(photos, tmp_path / "store", batched, part_size=4, batch_size=3)
    assert batched.sizes == [3, 1, 3, 1, 1]


class OfAnotherSize:
    description: Mapping[str, Any] = {"name": "wrong"}

    def __call__(self, photo: Photo) -> MaskSet:
        assert photo.size
        return MaskSet.of(3, 3, [Rle(3, 3, np.array([9]))])


def test_masks_of_another_size_are_an_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made masks of 3 x 3 of a photograph of 21 x 30"):
        generate(photos, tmp_path / "store", OfAnotherSize())


class WithEmpty:
    description: Mapping[str, Any] = {"name": "empty"}

    def __call__(self, photo: Photo) -> MaskSet:
        height, width = photo.shape[:2]
        full = Rle(height, width, np.array([0, height * width]))
        return MaskSet.of(height, width, [full, full, Rle(height, width, np.array([full.area]))])


def test_dropped_masks_are_counted_in_the_store(photos: Path, tmp_path: Path) -> None:
    report = generate(photos, tmp_path / "store", WithEmpty(), part_size=2)
    assert report.store.dropped == {"empty": 9, "duplicate": 9}
    assert report.store.mask_count == 9
    assert "dropped masks: 9 duplicate, 9 empty" in report.lines()


def test_no_photograph_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match=r"none of 1 photographs can be read: .*a\.jpg"):
        generate(tmp_path / "photos", tmp_path / "store", SLIC)
    with pytest.raises(DataError, match="no photograph there"):
        (tmp_path / "empty").mkdir()
        generate(tmp_path / "empty", tmp_path / "other", SLIC)
    assert not (tmp_path / "other" / MANIFEST).exists()
