from pathlib import Path

import pytest

from conceptarchive import DataMissingError, FormatError, Vocabulary


def test_nouns_are_mined_by_caption_count_with_plurals_merged() -> None:
    captions = [
        "a dog and a dog near the café",
        "two dogs on the grass",
        "three women ride a fire truck",
        "a woman in a photo of a fire truck",
    ]
    mined = Vocabulary.mine(captions, min_count=2)
    assert mined.names == ("dog", "fire", "truck", "woman")
    assert "photo" not in Vocabulary.mine(captions, min_count=1).names
    assert "café" in Vocabulary.mine(captions, min_count=1).names
    assert "fire truck" in Vocabulary.mine(captions, min_count=2, phrases=True).names
    apart = Vocabulary.mine(captions, min_count=1, merge_plurals=False).names
    assert {"dog", "dogs"} <= set(apart)
    assert Vocabulary.mine(captions, min_count=1, max_size=1).names == ("dog",)


def test_mining_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="min_count = 5"):
        Vocabulary.mine(["a dog"], min_count=5)
    with pytest.raises(ValueError, match="got 0"):
        Vocabulary.mine(["a dog"], min_count=0)
    with pytest.raises(ValueError, match="max_share"):
        Vocabulary.mine(["a dog"], min_count=1, max_share=1.5)
    with pytest.raises(ValueError, match="max_size"):
        Vocabulary.mine(["a dog"], min_count=1, max_size=0)
    with pytest.raises(ValueError, match="no noun"):
        Vocabulary.mine([], min_count=1)


def test_nouns_of_too_many_captions_and_stop_words_are_left_out() -> None:
    captions = ["a dog on the grass", "a dog and a cat", "the dog of a friend", "a cat"]
    mine = Vocabulary.mine
    assert mine(captions, min_count=1).names == ("dog", "cat", "friend", "grass")
    assert mine(captions, min_count=1, max_share=0.75).names == ("dog", "cat", "friend", "grass")
    assert mine(captions, min_count=1, max_share=0.7).names == ("cat", "friend", "grass")
    assert mine(captions, min_count=1, stop_words={"friend"}).names == ("dog", "cat", "grass")


def test_a_lone_phrase_needs_more_than_chance() -> None:
    captions = ["a tennis ball"] * 4 + ["a dog ball", *["a dog"] * 5, *["a ball"] * 5]
    mine = Vocabulary.mine
    assert {"tennis ball", "dog ball"} <= set(mine(captions, min_count=1, phrases=True).names)
    # 15 captions: ball in 10, tennis in 4, dog in 6; log(4 * 15 / 40) = 0.41, log(15 / 60) < 0
    kept = mine(captions, min_count=1, phrases=True, min_association=0.4).names
    assert kept == ("ball", "dog", "tennis", "tennis ball")
    none = mine(captions, min_count=1, phrases=True, min_association=0.41).names
    assert none == ("ball", "dog", "tennis")


def test_files_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dog\n\nhowler  monkey\ndog\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"concept": ["Dog", "howler monkey"]}', encoding="utf-8")
    first = Vocabulary.from_file(tmp_path / "a.txt")
    assert first.names == ("dog", "howler monkey")
    assert Vocabulary.from_file(tmp_path / "a.json") == first
    first.save(tmp_path / "b.txt")
    assert Vocabulary.from_file(tmp_path / "b.txt").sha256 == first.sha256
    assert first.sha256 != Vocabulary(("howler monkey", "dog")).sha256
    assert first.sha256 != Vocabulary(first.names, merge_plurals=False).sha256
    assert first.prompts() == ["a photo of a dog.", "a photo of a howler monkey."]


def test_lists_and_tables(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["Dog", "howler monkey", "dog"]', encoding="utf-8")
    (tmp_path / "a.csv").write_text('id,name\n1,Dog\n2,"howler monkey"\n3,\n', encoding="utf-8-sig")
    (tmp_path / "a.tsv").write_text("name\tid\nDog\t1\nhowler monkey\t2\n", encoding="utf-8")
    for name in ("a.json", "a.csv", "a.tsv"):
        assert Vocabulary.from_file(tmp_path / name).names == ("dog", "howler monkey")
    (tmp_path / "b.csv").write_text("id,label\n1,dog\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"b\.csv: needs a column 'name'"):
        Vocabulary.from_file(tmp_path / "b.csv")


@pytest.mark.parametrize(
    "text",
    ["{}", "[1", '{"concept": []}', '{"concept": 3}', "[1, 2]", '[{"name": "dog"}]', "3"],
    ids=["key", "json", "none", "type", "numbers", "objects", "number"],
)
def test_wrong_files_name_themselves(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"v\.json"):
        Vocabulary.from_file(tmp_path / "v.json")
    with pytest.raises(DataMissingError, match=r"w\.txt"):
        Vocabulary.from_file(tmp_path / "w.txt")
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(FormatError, match=r"x\.txt"):
        Vocabulary.from_file(tmp_path / "x.txt")


def test_evaluation_names_can_be_left_out() -> None:
    names = ("dog", "dining table", "table", "person", "potted plants", "truck", "fire truck")
    vocabulary = Vocabulary(names, merge_plurals=False)
    left = vocabulary.without(["Dogs", "diningtable", "people, human", "potted plant", "truck"])
    assert left == Vocabulary(("table", "fire truck"), merge_plurals=False)
    assert vocabulary.without([]) == vocabulary
    with pytest.raises(ValueError, match="every one of the 2"):
        left.without(["table", "fire truck"])


@pytest.mark.parametrize("names", [(), ("Dog",), ("dog", "dog"), (" dog",)])
def test_names_are_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name"):
        Vocabulary(names)
