"""The desk: whatever a visitor gives it, it answers with HTML."""

from html import escape
from pathlib import Path

import pytest

from integration.demo.archive import CARDS
from integration.demo.desk import Desk, Listing
from integration.demo.drawing import draw_photo
from integration.demo.models import Models
from integration.demo.picture import read_picture
from integration.demo.runs import MODELS, archive_folders, model_folders, of_scenes
from segbench import ScenesDataset

SCENES = ScenesDataset(split="val", count=1000, size_px=48)


@pytest.fixture(scope="module")
def desk(runs: tuple[Path, Path]) -> Desk:
    return Desk(Models(model_folders(*runs)), archive_folders(runs[0]), SCENES, of_scenes(*runs))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk at which nothing was ever made."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    return Desk(Models(model_folders(nowhere, nowhere)), archive_folders(nowhere), SCENES)


def test_a_picture_and_words_become_an_overlay_and_maps(desk: Desk) -> None:
    overlay, maps = desk.segment(desk.scene(0), "sky, grass", "CoCu", 0.0)
    assert overlay.startswith('<div class="seen">')
    assert "group " in maps
    other, _ = desk.segment(desk.scene(1), "sky, grass", "CoCu", 0.0)
    assert other != overlay


@pytest.mark.parametrize(
    ("words", "model", "threshold", "told"),
    [
        ("", "CoCu", 0.0, "no words yet"),
        ("sky", "none", 0.0, "choose one of"),
        ("sky", "CoCu", 1.5, "in [0, 1], got 1.5"),
        ("sky", "CoCu", float("nan"), "in [0, 1], got nan"),
    ],
)
def test_what_a_visitor_can_mend_is_told(
    desk: Desk, words: str, model: str, threshold: float, told: str
) -> None:
    overlay, maps = desk.segment(desk.scene(0), words, model, threshold)
    assert told in overlay
    assert 'class="told wrong"' in overlay
    assert overlay.endswith(draw_photo(SCENES[0].image))  # the picture is seen all the same
    assert maps == ""


def test_one_class_of_several_words_is_pointed_out_and_segmented(desk: Desk) -> None:
    overlay, maps = desk.segment(desk.scene(0), "sky grass", "CoCu", 0.0)
    assert "one class, &#x27;sky grass&#x27;" in overlay
    assert '<div class="seen">' in overlay
    assert "group " in maps


def test_files_that_were_not_sent_are_told(desk: Desk) -> None:
    assert "the file has 11.0 MB, at most 10 are read" in desk.refuse(11 * 2**20)
    assert "not a picture that can be read" in desk.refuse(100)


def test_what_models_and_archive_do_not_know_is_said(desk: Desk, empty: Desk) -> None:
    assert "baseline and CoCu learnt from small procedural scenes alone" in desk.limits
    assert "concepts, from captions of 200 procedural scenes" in desk.about()
    assert (empty.limits, empty.about()) == ("", "")


def test_models_that_are_not_made_are_marked_with_their_command(
    desk: Desk, empty: Desk, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    assert desk.choices == [(name, name) for name in MODELS]
    assert (desk.first_choice, desk.missing) == ("CoCu", "")
    half = Desk(Models(model_folders(runs[0], tmp_path)), None, SCENES)
    assert half.choices[1:3] == [("CoCu", "CoCu"), ("PixelCLIP (not made yet)", "PixelCLIP")]
    assert half.missing.startswith("for PixelCLIP and plain CLIP run `hatch run reproduce pixelcl")
    other = Desk(Models(model_folders(tmp_path, runs[1])), None, SCENES)
    assert (other.first_choice, empty.first_choice) == ("PixelCLIP", "CoCu")
    assert empty.missing.count("hatch run reproduce") == 2


def test_a_search_for_parts_of_words_says_so(desk: Desk) -> None:
    assert desk.find("ball", "captions").note == ""
    begun = desk.find("bal", "captions")
    assert "no caption has 'bal' as it is; these have words that begin so" in begun.note
    assert escape(begun.note) in desk.list(begun)[0]
    assert begun.moved(1).note == begun.note
    assert desk.find("alloon", "captions") == Listing([])


def test_no_picture_yet_is_told(desk: Desk) -> None:
    assert "no picture yet" in desk.segment(None, "sky", "CoCu", 0.0)[0]
    assert "no picture yet" in desk.judge(None, "")


def test_scenes_are_those_of_the_validation_split(desk: Desk) -> None:
    assert (read_picture(desk.scene(7)) == SCENES[7].image).all()
    assert desk.scene(1007) == desk.scene(7)
    assert desk.words.startswith("sky, grass")


def test_a_listing_turns_pages_up_to_its_ends(desk: Desk) -> None:
    first = desk.find("", "captions")
    assert len(first.shown) == CARDS
    assert first.moved(-1) is first
    second = first.moved(1)
    assert second.shown == first.keys[CARDS : 2 * CARDS]
    assert second.moved(-1) == first
    assert desk.list(second)[1] == f"{CARDS + 1} to {2 * CARDS} of 200 pairs"
    last = Listing(first.keys, 192)
    assert last.moved(1) is last
    assert desk.list(last)[1] == "193 to 200 of 200 pairs"


def test_an_entry_is_chosen_by_its_place_on_the_list(desk: Desk) -> None:
    second = desk.find("", "captions").moved(1)
    assert second.shown[3] in desk.entry(second, 3)
    for row in (-1, CARDS, 10**9):
        assert "no such pair on the list" in desk.entry(second, row)


def test_a_new_picture_is_judged(desk: Desk) -> None:
    page = desk.judge(desk.scene(0), "a ball on the grass")
    assert page.startswith('<iframe class="entry" sandbox')
    assert "your picture" in page


def test_without_any_run_every_answer_says_what_to_run(empty: Desk) -> None:
    listing = empty.find("dog", "concepts")
    assert listing == Listing()
    answers = [
        empty.segment(empty.scene(0), "sky", "CoCu", 0.0)[0],
        empty.list(listing)[0],
        empty.entry(Listing(["a"]), 0),
        empty.judge(empty.scene(0), ""),
    ]
    for answer in answers:
        assert "hatch run reproduce cocu" in answer
