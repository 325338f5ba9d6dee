import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive.concepts import automaton
from conceptarchive.concepts.automaton import LETTERS, Automaton


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the search before anything is timed."""
    search(Automaton.build([(["ant"], 0)]), b"an ant")


def search(built: Automaton, *captions: bytes) -> list[list[int]]:
    offsets = np.cumsum([0, *map(len, captions)])
    ends, found = built.search(np.frombuffer(b"".join(captions), np.uint8), offsets, 10)
    return [part.tolist() for part in np.split(found, ends[:-1])]


def test_letters_are_those_of_ascii_and_all_bytes_beyond() -> None:
    for code in range(128):
        wanted = ord(chr(code).lower()) if chr(code).isalnum() or chr(code) == "-" else 0
        assert LETTERS[code] == wanted, chr(code)
    assert LETTERS[128:].tolist() == list(range(128, 256))


def test_the_trie_of_a_worked_example() -> None:
    built = Automaton.build([(["red", "fire"], 0), (["ant"], 1), (["red", "ant"], 2), (["ant"], 3)])
    # words: red 0, fire 1, ant 2; nodes: root, red, ant, red fire, red ant
    assert built.letters.tobytes() == b"redfireant"
    assert built.first.tolist() == [1, -1, 2]
    assert built.children.tolist() == [1, 3, 5, 5, 5, 5]
    assert built.edges.tolist() == [-1, 0, 2, 1, 2]
    assert built.concepts.tolist() == [-1, -1, 3, 0, 2]  # of two "ant" the last


def test_words_end_where_their_caption_ends() -> None:
    built = Automaton.build([(["ant"], 0), (["plant"], 1), (["plant", "ant"], 2), (["t-x"], 3)])
    assert search(built, b"pl", b"ant", b"", b"plants ant-", b"-ant", b"PLANT,Ant") == [
        [], [0], [], [0], [0], [1, 2, 0],
    ]  # fmt: skip
    assert search(built, b"t-x", b"t-", b"x", b"t--x", b"_t-X_") == [[3], [], [], [], [3]]


def test_no_phrases_and_no_captions() -> None:
    empty = Automaton.build([])
    assert search(empty, b"a dog") == [[]]
    built = Automaton.build([(["ant"], 0)])
    ends, found = built.search(np.empty(0, np.uint8), np.zeros(1, np.int64), 1)
    assert len(ends) == len(found) == 0


def test_a_caption_may_have_any_number_of_mentions() -> None:
    names = [([str(number)], number) for number in range(10_000)]
    text = " ".join(str(number) for number in range(10_000)).encode()
    built = Automaton.build(names)
    ends, found = built.search(np.frombuffer(text, np.uint8), np.array([0, len(text)]), 10_000)
    assert ends.tolist() == [10_000]
    assert found.tolist() == list(range(10_000))


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=2, max_size=9, unique=True))
def test_words_with_one_hash_are_still_different_words(words: list[str]) -> None:
    built = Automaton.build([([word], number) for number, word in enumerate(words[:-1])])
    same = np.full_like(built.hashes, _hash_of(words[-1]))
    slots = automaton._fill_slots(same, len(built.slots))
    clashing = Automaton(
        slots, same, built.starts, built.letters,
        built.first, built.children, built.edges, built.concepts,
    )  # fmt: skip
    assert search(clashing, words[-1].encode()) == [[]]


def test_the_hash_is_fnv_1a() -> None:
    assert _hash_of("a") == 0xAF63DC4C8601EC8C
    assert _hash_of("foobar") == 0x85944171F73967E8


def _hash_of(word: str) -> int:
    return int(Automaton.build([([word], 0)]).hashes[0])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 100, 5000])
def test_every_word_is_found_again(count: int) -> None:
    built = Automaton.build([([f"w{number}"], number) for number in range(count)])
    text = [f"W{number}".encode() for number in range(count)]
    offsets = np.cumsum([0, *map(len, text)])
    _, found = built.search(np.frombuffer(b"".join(text), np.uint8), offsets, count)
    assert found.tolist() == list(range(count))
