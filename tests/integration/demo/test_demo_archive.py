"""A walk through an archive: search, cards, the page of a pair, and that of a new picture."""

import re
import shutil
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest

from conceptarchive import ConceptArchive
from integration.demo.archive import COMPACT, MANY, MAX_CAPTION, ArchiveView, Found, framed
from integration.demo.errors import InputError
from integration.demo.picture import Photo
from integration.demo.runs import ArchiveFolders, archive_folders
from segbench import ScenesDataset

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def folders(runs: tuple[Path, Path]) -> ArchiveFolders:
    found = archive_folders(runs[0])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def archive(folders: ArchiveFolders) -> ConceptArchive:
    return ConceptArchive.open(folders.archive)


@pytest.fixture(scope="module")
def view(folders: ArchiveFolders) -> ArchiveView:
    return ArchiveView(folders)


def scene(index: int) -> Photo:
    """The picture of a pair of the tiny recipe."""
    return ScenesDataset(split="train", count=200, size_px=32)[index].image


def told(page: str) -> list[tuple[str, str]]:
    """Concepts of a page, best first, each with its cluster."""
    names = re.findall(r"<h2><small>\d+</small>(.*?)</h2>", page)
    return list(zip(names, re.findall(r'cluster">cluster (\d+)<', page), strict=True))


def test_captions_are_searched_for_all_words(view: ArchiveView, archive: ConceptArchive) -> None:
    word = archive.caption(archive.keys[0]).split()[-1]
    said = {key: set(re.findall(r"\w+", archive.caption(key))) for key in archive.keys}
    wanted = [
        key for key, words in said.items() if "a" in words and words & {word, f"{word}s"}
    ]  # in singular and plural
    assert view.find(f" {word.upper()}  a ") == Found(wanted)
    assert archive.keys[0] in wanted
    assert view.find("000000007").keys == ["train/00000/000000007"]  # keys are searched too
    assert view.find(" ").keys == list(archive.keys)
    for nothing in ("nosuchword", "!?"):
        assert view.find(nothing).keys == []


def test_parts_of_words_count_only_where_no_word_does(
    view: ArchiveView, archive: ConceptArchive
) -> None:
    captions = {key: f" {archive.caption(key)} " for key in archive.keys}
    balls = [key for key, told in captions.items() if " ball " in told or " balls " in told]
    begun = [key for key, told in captions.items() if " ball" in told]  # balloons too
    assert 0 < len(balls) < len(begun)
    assert view.find("ball") == Found(balls)
    assert view.find("bal") == Found(begun, whole=False)
    assert view.find("alloon").keys == []


def test_concepts_are_searched_beyond_captions(view: ArchiveView, archive: ConceptArchive) -> None:
    name = archive.concepts(archive.keys[0])[0].name
    holders = [key for key in archive.keys if name in {c.name for c in archive.concepts(key)}]
    assert view.find(name, "concepts") == Found(holders)
    begun = view.find(name[:-1], "concepts")
    assert set(holders) <= set(begun.keys)
    assert not begun.whole
    for nothing in ("nosuchword", "!?"):
        assert view.find(nothing, "concepts").keys == []


def test_an_archive_says_what_it_can_say_at_all(view: ArchiveView, archive: ConceptArchive) -> None:
    names = sorted(archive.vocabulary.names)
    assert f"knows {len(names)} concepts, from captions of 200 procedural scenes" in view.knows
    assert ", ".join(names[:MANY]) in view.knows
    assert "no probability" in view.knows


def test_cards_have_pictures_captions_and_their_row(
    view: ArchiveView, archive: ConceptArchive
) -> None:
    keys = archive.keys[3:6]
    cards = view.cards(keys)
    assert re.findall(r'data-row="(\d+)"', cards) == ["0", "1", "2"]
    assert cards.count("data:image/png;base64,") == 3
    for key in keys:
        assert escape(archive.caption(key)) in cards
    assert "no pair" in view.cards([])


def test_the_page_of_a_pair_tells_all_that_the_archive_holds(
    view: ArchiveView, archive: ConceptArchive
) -> None:
    key = archive.keys[5]
    page, concepts = view.page(key), archive.concepts(key)
    assert told(page) == [(escape(c.name), str(c.cluster)) for c in concepts]
    for witness in archive.witness_captions(key, concepts[0].name):
        assert escape(witness.id) in page
        assert f"similarity {witness.similarity:.3f}" in page
    with pytest.raises(InputError, match="no such pair"):
        view.page("../../etc/passwd")


def test_a_picture_of_the_pool_is_judged_as_the_archive_does(
    view: ArchiveView, archive: ConceptArchive
) -> None:
    key = archive.keys[5]
    wanted = [(c.name, str(c.cluster)) for c in archive.concepts(key)]
    assert told(view.judge(scene(5), archive.caption(key))) == wanted
    assert told(view.judge(scene(5))) != []  # a picture without a caption has concepts too


def test_hostile_captions_stay_text(view: ArchiveView) -> None:
    page = view.judge(scene(1), HOSTILE)
    assert "<script" not in page
    assert escape(HOSTILE) in page or escape(HOSTILE, quote=False) in page
    frame = framed(page)
    assert re.findall(r"<(\w+)", frame) == ["iframe"]
    assert 'sandbox title="' in frame  # nothing is allowed
    shown = unescape(frame.partition('srcdoc="')[2].removesuffix('"></iframe>'))
    assert shown.replace(f"<style>{COMPACT}</style>", "") == page
    with pytest.raises(InputError, match=f"at most {MAX_CAPTION} letters"):
        view.judge(scene(1), "a" * (MAX_CAPTION + 1))


def test_a_picture_that_cannot_be_read_leaves_its_place_empty(
    folders: ArchiveFolders, tmp_path: Path
) -> None:
    pairs = Path(shutil.copytree(folders.pairs, tmp_path / "pairs"))
    (shard,) = pairs.glob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x00PNG"))
    view = ArchiveView(ArchiveFolders(folders.archive, pairs, folders.clip, folders.embedded))
    assert view.cards(view.find("").keys[:2]).count("no picture") == 2


def test_parts_of_other_runs_are_refused(folders: ArchiveFolders, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folders.clip, tmp_path / "other-clip"))
    view = ArchiveView(ArchiveFolders(folders.archive, folders.pairs, other, folders.embedded))
    with pytest.raises(InputError, match="the CLIP that is there is open_clip/other-clip"):
        view.judge(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="the archive cannot be shown") as told:
        ArchiveView(ArchiveFolders(tmp_path, folders.pairs, folders.clip, folders.embedded))
    assert "\n" not in str(told.value)
