"""Mining against the tagger it speeds up: every caption tagged as a whole."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conceptarchive import Vocabulary
from conceptarchive.concepts.mining import NounReader, _load_tagger, count_nouns
from conceptarchive.concepts.vocabulary import NON_VISUAL
from conceptarchive.concepts.words import phrase_plurals, tokenize

FLICKR8K = Path(__file__).parents[4] / "shared/data/flickr8k"
TAGGER = _load_tagger()

PIECES = [
    "a", "dog", "dogs", "Dog", "dog.", "...", "!", "?!", "\"", "'", "\"dog", "dog's", "dog.\"",
    "(dog", ")", ":", ";", "D", "xD", "x", "8", "o.", "O", "fire", "truck", "U.S.", "Mr.",
    "don't", "w/", "-", "dog,cat", "END-OF-SENTENCE", "\u201cdogs\u201d", "dog\u2019s",
    "&slash;", "x-D", "X-", "-D", "Running", "Red", "e.g.", "cafe\u0301", "\u72ac", "50%",
    "#dog", "t-shirt,", "\xb0o", "\xb0", "<3", "\u2665", "*dog", "[dog]", "=D", "...dog",
    "dog!cat", "'ll", "''", "\u01c5og", "\ud800", "\u2028",
]  # fmt: skip
CAPTIONS = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from([" ", " ", " ", "", "\n\n"])), max_size=9
).map(lambda parts: "".join(piece + space for piece, space in parts))


def nouns_by_hand(caption: str, *, phrases: bool) -> set[str]:
    """Nouns of a caption tagged as a whole."""
    found, previous = set(), ""
    for word, tag in TAGGER.tag(" ".join(unicodedata.normalize("NFC", caption).split())):
        token = word.lower()
        usable = tag.startswith("NN") and len(token) > 2 and tokenize(token) == [token]
        noun = token if usable and not token.isdigit() else ""
        if noun:
            found.add(noun)
        if noun and previous and phrases and not {noun, previous} & NON_VISUAL:
            found.add(f"{previous} {noun}")
        previous = noun
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(CAPTIONS, st.text("ab.DO' \"xo!?-_\n/", max_size=12)), max_size=5))
@example(["dog . \N{RIGHT DOUBLE QUOTATION MARK} Redo"])  # closes the sentence that has ended
@example(["dog.\N{RIGHT DOUBLE QUOTATION MARK} Redo"])
@example(["( dog . ) Redo"])
@example(["dog . Redo", "dog , Redo", "Redo"])  # only a sentence may begin with a capital
@example(["8 - D", "dogX D", "dogo .O"])  # an emoticon joins words
def test_pieces_are_read_as_the_tagger_reads_whole_captions(captions: list[str]) -> None:
    reader = NounReader(phrases=True, stop_words=NON_VISUAL)
    for caption in captions:
        found = {reader.names[number] for number in reader.read(caption)}
        assert found == nouns_by_hand(caption, phrases=True)


def count_by_hand(captions: list[str], *, phrases: bool, merge_plurals: bool) -> dict[str, int]:
    forms = [nouns_by_hand(caption, phrases=phrases) for caption in captions]
    known = sorted(set().union(*forms))
    singular = {plural: form for form in known for plural in phrase_plurals(form)}
    counts: dict[str, int] = {}
    for caption_forms in forms:
        for name in {singular.get(f, f) if merge_plurals else f for f in caption_forms}:
            counts[name] = counts.get(name, 0) + 1
    return {name: count for name, count in counts.items() if name not in NON_VISUAL}


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="Flickr8k is not beside the repository")
@pytest.mark.slow
@pytest.mark.parametrize("merge_plurals", [True, False])
def test_counts_of_real_captions_are_those_of_full_tagging(merge_plurals: bool) -> None:
    captions = [
        line.split("\t", 2)[2]
        for path in sorted(FLICKR8K.glob("captions_*.tsv"))
        for line in path.read_text(encoding="utf-8").splitlines()[1:]
    ]
    options = {"phrases": True, "merge_plurals": merge_plurals}
    mined = count_nouns(captions, stop_words=NON_VISUAL, **options)
    assert mined.captions == len(captions) > 30_000
    assert mined.counts == count_by_hand(captions, **options)


def test_a_word_that_is_no_noun_where_it_stands_is_no_singular() -> None:
    # "Spotted" begins no sentence here; that it would be a noun there must not count
    captions = ["a Dog and dogs", "Dogs", "dogs run"]
    mined = count_nouns(captions, phrases=False, merge_plurals=True, stop_words=())
    assert mined.counts["dog"] == 3
    assert "dogs" not in mined.counts
    plural_only = count_nouns(
        ["two dogs", "dogs"], phrases=False, merge_plurals=True, stop_words=()
    )
    assert plural_only.counts == {"dogs": 2}


def test_blocks_and_kinds_of_input_change_nothing() -> None:
    random = np.random.default_rng(0)
    nouns = ["dog", "dogs", "cat", "tree", "car", "cars", "bus", "child", "children"]
    captions = [" ".join(["a", *random.choice(nouns, 3), "."]) for _ in range(40_000)]
    mined = Vocabulary.mine(captions, phrases=True)
    assert Vocabulary.mine(iter(captions), phrases=True) == mined
    assert set(mined.names[:6]) == {"dog", "cat", "tree", "car", "bus", "child"}
    counts = count_nouns(captions, phrases=False, merge_plurals=True, stop_words=()).counts
    assert counts == count_by_hand(captions, phrases=False, merge_plurals=True)
