import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive import Mentions
from conceptarchive.curation.collect import Candidates, collect


def test_collecting_remembers_who_brought_a_concept() -> None:
    mentions = Mentions(np.array([0, 2, 3, 3]), np.array([4, 1, 4], np.uint32))
    own = np.array([0.5, 0.25, 0.125], np.float32)
    neighbours = np.array([[0, 1], [2, -1], [1, -1]])
    found = collect(neighbours, mentions, own, concept_count=5)
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.concepts.tolist() == [1, 4, 4]
    assert found.witness_offsets.tolist() == [0, 1, 3, 4]
    assert found.witness_responses.tolist() == [0.25, 0.5, 0.125, 0.125]
    forced = Mentions(np.array([0, 1, 2, 2]), np.array([4, 0], np.uint32))
    more = collect(neighbours, mentions, own, concept_count=5, forced=forced)
    assert more.offsets.tolist() == [0, 2, 3, 4]
    assert more.concepts.tolist() == [1, 4, 0, 4]
    assert more.witness_offsets.tolist() == [0, 1, 3, 3, 4]


def collect_slowly(
    neighbours: list[list[int]], captions: list[list[int]], forced: list[list[int]]
) -> list[dict[int, list[float]]]:
    """Candidates of each image in order, with the numbers of the mentions that brought them."""
    starts = np.cumsum([0, *map(len, captions)]).tolist()
    out = []
    for rows, added in zip(neighbours, forced, strict=True):
        found: dict[int, list[float]] = {concept: [] for concept in added}
        for row in rows:
            for place, concept in enumerate(captions[row] if row >= 0 else []):
                found.setdefault(concept, []).append(float(starts[row] + place))
        out.append(dict(sorted(found.items())))
    return out


def mentions_of(lists: list[list[int]]) -> Mentions:
    offsets = np.cumsum([0, *map(len, lists)])
    return Mentions(offsets, np.array([c for part in lists for c in part], np.uint32))


Captions = st.lists(st.lists(st.integers(0, 6), unique=True, max_size=4), min_size=3, max_size=3)


@given(
    neighbours=st.lists(
        st.lists(st.integers(-1, 2), min_size=2, max_size=2), min_size=3, max_size=3
    ),
    captions=Captions,
    forced=Captions,
)
def test_same_as_dictionaries(
    neighbours: list[list[int]], captions: list[list[int]], forced: list[list[int]]
) -> None:
    mentions = mentions_of(captions)
    own = np.arange(len(mentions.concepts), dtype=np.float32)
    found = collect(
        np.array(neighbours), mentions, own, concept_count=7, forced=mentions_of(forced)
    )
    got: list[dict[int, list[float]]] = [{} for _ in neighbours]
    for candidate, image in enumerate(np.repeat(range(3), np.diff(found.offsets)).tolist()):
        part = slice(found.witness_offsets[candidate], found.witness_offsets[candidate + 1])
        got[image][int(found.concepts[candidate])] = found.witness_responses[part].tolist()
    expected = collect_slowly(neighbours, captions, forced)
    assert [list(part.items()) for part in got] == [list(part.items()) for part in expected]


def test_forced_concepts_are_of_the_same_images_and_vocabulary() -> None:
    nothing = mentions_of([[]])
    with pytest.raises(ValueError, match="forced must be of 2"):
        collect(np.full((2, 1), -1), nothing, np.empty(0, "f4"), concept_count=3, forced=nothing)
    with pytest.raises(ValueError, match="image 1 must be below 3"):
        collect(
            np.full((2, 1), -1), nothing, np.empty(0, "f4"),
            concept_count=3, forced=mentions_of([[2], [3]]),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("offsets", "witness_offsets"), [([0, 3], [0, 1, 2]), ([0, 2], [0, 1, 3]), ([0, 2], [0, 3, 2])]
)
def test_candidates_fit_together(offsets: list[int], witness_offsets: list[int]) -> None:
    responses: npt.NDArray[np.float32] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="rising from 0 to 2"):
        Candidates(np.array(offsets), np.arange(2), np.array(witness_offsets), responses)
