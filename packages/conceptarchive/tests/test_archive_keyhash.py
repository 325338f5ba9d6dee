from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import keyhash
from conceptarchive.keyhash import find_repeated, hash_key, hash_keys, hash_texts

MASK = 2**64 - 1


def by_hand(key: str) -> int:
    value = 0xCBF29CE484222325
    for letter in key.encode():
        value = (value ^ letter) * 0x100000001B3 & MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & MASK
    return value ^ value >> 33


@settings(deadline=None)  # the first call compiles
@given(st.text())
def test_one_key_is_hashed_as_defined(key: str) -> None:
    assert hash_key(key) == by_hand(key)


def test_values_of_the_file_format_never_change() -> None:
    assert hash_key("") == 0xEFD01F60BA992926
    assert hash_key("cc3m/00000/000000012") == 0xF79F73266DCC848A


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.text(max_size=8), max_size=9), st.integers(1, 4))
def test_many_keys_are_hashed_as_each_alone(keys: list[str], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyhash, "CHUNK", chunk)
        hashes = hash_keys(keys)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [hash_key(key) for key in keys]


def test_a_slice_of_an_arrow_array_is_hashed_from_its_own_start() -> None:
    texts = pa.array(["a", "", "Bär", "犬", "b"], pa.large_string())
    assert hash_texts(texts[2:4]).tolist() == [hash_key("Bär"), hash_key("犬")]
    assert hash_texts(texts[1:2]).tolist() == [hash_key("")]


def test_hashes_of_a_million_like_keys_differ_and_fill_all_bits() -> None:
    hashes = hash_keys([f"set/{n // 1000:05d}/{n:09d}" for n in range(1_000_000)])
    assert len(np.unique(hashes)) == 1_000_000
    for bits in (hashes >> np.uint64(56), hashes & np.uint64(255)):
        counts = np.bincount(bits.astype(np.int64), minlength=256)
        assert 3500 < counts.min() < counts.max() < 4400  # 3,906 expected


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.sampled_from("abcdefghij"), max_size=12))
def test_the_first_repetition_is_found(keys: list[str]) -> None:
    first = next((row for row, key in enumerate(keys) if key in keys[:row]), None)
    expected = None if first is None else (keys[first], keys.index(keys[first]), first)
    assert find_repeated(keys) == expected


def test_equal_hashes_of_other_keys_are_no_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyhash, "hash_texts", lambda texts: np.zeros(len(texts), np.uint64))
    assert find_repeated(["a", "b", "c"]) is None
    assert find_repeated(["a", "b", "c", "b"]) == ("b", 1, 3)


class Lazy(list[str]):
    """Texts whose strings must not be asked for."""

    def __getitem__(self, at: object) -> str:  # type: ignore[override]  # never called
        raise AssertionError(at)

    def chunks(self) -> Iterator[pa.Array]:
        yield pa.array(["x", "y"], pa.large_string())
        yield pa.array([], pa.large_string())
        yield pa.array(["x"], pa.large_string())


def test_a_lazy_column_is_read_from_arrow() -> None:
    lazy = Lazy(["x", "y", "x"])
    assert hash_keys(lazy).tolist() == [hash_key(key) for key in "xyx"]
    assert find_repeated(lazy) == ("x", 0, 2)
