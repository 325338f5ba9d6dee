"""What trainers draw, judged by hand on an archive of three pairs."""

from collections.abc import Mapping

import numpy as np
import pytest

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    Vocabulary,
    build_archive,
)
from integration.cocu.ablation.draws import draw_quality

KEYS = ["train/0/a", "train/0/b", "train/0/c"]
CAPTIONS = ["a dog", "grass", "nothing at all"]
TRUTH: Mapping[str, frozenset[str]] = {
    KEYS[0]: frozenset({"dog", "grass"}),
    KEYS[1]: frozenset({"grass"}),
    KEYS[2]: frozenset({"cat"}),
}
MENTIONED = {KEYS[0]: frozenset({"dog"}), KEYS[1]: frozenset({"grass"})}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ConceptArchive:
    """a and b are each other's neighbours; c's neighbour, itself, says nothing."""
    images = [[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
    pairs = Embeddings.from_arrays(KEYS, CAPTIONS, images)
    return build_archive(
        tmp_path_factory.mktemp("archive") / "archive",
        anchors=pairs,
        pool=pairs,
        concept_features=np.eye(3).tolist(),
        vocabulary=Vocabulary(("dog", "grass", "cat")),
        config=ArchiveConfig(neighbours=1, self_mode="drop"),
    )


def test_draws_by_hand(archive: ConceptArchive) -> None:
    # a's only concept is b's grass: right and new; b's is a's dog: wrong; c gets a's dog or b's
    # grass, both wrong. One of two places right and new for a, none for the others.
    found = draw_quality(archive.sampler("top", 1.0), MENTIONED, TRUTH, count=2)
    assert found.right.mean == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.new.mean == pytest.approx(0.5 / 3)
    assert found.reach.mean == pytest.approx((1 + 0) / 2)  # b misses nothing; c's cat is not there


def test_what_the_caption_names_is_right_but_not_new(archive: ConceptArchive) -> None:
    known = {**MENTIONED, KEYS[0]: frozenset({"dog", "grass"})}
    found = draw_quality(archive.sampler("top", 1.0), known, TRUTH, count=1)
    assert found.right.mean == pytest.approx(1 / 3)
    assert found.new.mean == 0


def test_a_standard_error_is_over_pairs(archive: ConceptArchive) -> None:
    found = draw_quality(archive.sampler("top", 1.0), MENTIONED, TRUTH, count=1)
    # 1, 0, 0: sample variance 1/3, over 3 pairs
    assert found.right.error == pytest.approx((1 / 9) ** 0.5)


def test_more_epochs_reach_no_less(archive: ConceptArchive) -> None:
    sampler = archive.sampler("naive", 1.0)
    few = draw_quality(sampler, MENTIONED, TRUTH, count=1, epochs=1)
    many = draw_quality(sampler, MENTIONED, TRUTH, count=1, epochs=9)
    assert many.reach.mean >= few.reach.mean


def test_nothing_to_judge_is_refused(archive: ConceptArchive) -> None:
    with pytest.raises(ValueError, match="got none"):
        draw_quality(archive.sampler("top", 1.0), {}, {}, count=1)
    with pytest.raises(KeyError):
        draw_quality(archive.sampler("top", 1.0), {}, {"train/0/z": frozenset({"x"})}, count=1)
