"""Drawn texts, prompts and tokens; images that do not decode."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from groupvit import (
    DataConfig,
    DataError,
    PairDataset,
    RecipeError,
    augmentation,
    batches,
    index_shards,
    stream,
    without_corrupt,
)
from groupvit.data.index import Skipped
from groupvit.data.loader import Draw, collate
from groupvit.data.prompts import TEMPLATES
from groupvit.data.tokens import tokenize

Write = Callable[..., Path]


def dataset(shard: Path, **values: object) -> PairDataset:
    pairs, _ = index_shards([shard], dataset="toy")
    return PairDataset(pairs, augmentation("flip", 32), **values)  # type: ignore[arg-type]


def test_images_that_cannot_be_decoded_are_left_out(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    members = {"good.jpg": jpeg(), "half.jpg": jpeg()[:400], "text.jpg": b"no picture"}
    captions = {f"{name[:4]}.txt": b"a wall" for name in members}
    pairs, _ = index_shards([write_shard(tmp_path / "s.tar", members | captions)], dataset="toy")
    kept, skipped = without_corrupt(pairs)
    assert [p.id for p in kept] == ["toy/s/good"]
    assert {s.id for s in skipped} == {"toy/s/half", "toy/s/text"}
    with pytest.raises(DataError, match="none of the images"):
        without_corrupt(pairs[1:])
    assert without_corrupt(pairs[:1])[0].fingerprint == pairs[:1].fingerprint  # type: ignore[attr-defined]  # Pairs


def filled(prompt: str, word: str) -> bool:
    return prompt in {template.format(word) for template in TEMPLATES}


def test_words_of_the_caption_are_prompted_and_the_caption_fills_up(colour_shard: Path) -> None:
    data = dataset(colour_shard, concepts=5)
    caption, *prompts = data.texts(0, 0)
    assert caption == "a wall painted red"
    words = ("wall", "painted", "red")
    drawn = [word for prompt in prompts for word in words if filled(prompt, word)]
    assert prompts.count(caption) == 5 - len(drawn)
    assert len(set(drawn)) == len(drawn) >= 2 and "wall" in drawn
    assert dataset(colour_shard, concepts=0).texts(0, 0) == [caption]


def test_a_caption_without_words_stands_for_its_prompts(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.txt": b"of the"})
    assert dataset(shard, concepts=2).texts(3, 0) == ["of the"] * 3


def test_draws_change_with_the_epoch_and_repeat_within_it(
    colour_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, again = dataset(colour_shard), dataset(colour_shard)
    assert [data.texts(e, 1) for e in range(5)] == [again.texts(e, 1) for e in range(5)]
    assert len({tuple(data.texts(e, 1)) for e in range(5)}) > 1
    assert data.texts(0, 1) != dataset(colour_shard, seed=1).texts(0, 1)
    assert torch.equal(data[2, 4].image, again[2, 4].image)
    assert torch.equal(data[2, 4].tokens, tokenize(again.texts(2, 4)))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(PairDataset, "_load", lambda *_: (Image.fromarray(noise), "a wall"))
    assert len({float(data[e, 1].image[0, 0, 0]) for e in range(9)}) == 2  # flipped or not


class Source:
    """A stub that satisfies ConceptSource."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int, int]] = []

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
        self.asked.append((key, count, seed, epoch))
        return ["sky", "grass"]


def test_concepts_come_from_the_source_when_there_is_one(colour_shard: Path) -> None:
    source = Source()
    caption, first, second, third = dataset(colour_shard, concepts=3, source=source, seed=8).texts(
        6, 2
    )
    assert source.asked == [("toy/colours-00000/00002", 3, 8, 6)]
    assert filled(first, "sky") and filled(second, "grass") and third == caption


def test_collate_stacks_images_and_sorts_texts() -> None:
    image = torch.zeros(3, 4, 4)
    lost = Skipped("toy/s/x", "image cannot be decoded")
    draws = [
        Draw(image, tokenize(["a cat", "cat"])),
        Draw(image, tokenize(["a", "a red wall painted"]), (lost,)),
    ]
    images, texts, replaced = collate(draws)
    assert images.shape == (2, 3, 4, 4) and replaced == [lost]
    assert texts.shape == (2, 2)
    padded = texts.padded()
    assert padded.shape == (2, 2, 6)  # start, a, red, wall, painted, end
    assert torch.equal(padded[1, 1], draws[1].tokens[1, :6])
    assert torch.equal(padded[0], draws[0].tokens[:, :6])


def test_too_long_a_caption_loses_its_tail_and_keeps_its_end(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    caption = " ".join(["cat"] * 100)
    shard = write_shard(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.txt": caption.encode()})
    tokens = dataset(shard, concepts=0)[0, 0].tokens
    cat = int(tokenize(["cat"])[0, 1])
    assert tokens.tolist() == [[49406, *[cat] * 75, 49407]]


def test_without_concepts_a_batch_has_the_captions_alone(colour_shard: Path) -> None:
    data = dataset(colour_shard, concepts=0)
    (images, texts), *_ = batches(data, batch=4, workers=0, start=0, stop=1)
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
    assert texts.shape == (4, 1) and texts.padded().shape == (4, 1, 6)


def test_the_caption_comes_before_its_prompts(colour_shard: Path) -> None:
    tokens = dataset(colour_shard, concepts=3)[1, 2].tokens
    assert tokens.shape == (4, 77) and tokens.dtype == torch.int64
    assert torch.equal(tokens[0], tokenize(["a wall painted blue"])[0])


def broken(tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes], bad: str) -> Path:
    """Eight pairs; those whose digit is in `bad` have no image that decodes."""
    members: dict[str, bytes] = {}
    for i in "01234567":
        members[f"{i}.jpg"] = jpeg()[:300] if i in bad else jpeg(seed=int(i))
        members[f"{i}.txt"] = f"a wall with number {i}".encode()
    return write_shard(tmp_path / "broken.tar", members)


def test_the_next_pair_takes_the_place_of_one_that_does_not_decode(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    data = dataset(broken(tmp_path, write_shard, jpeg, "567"), concepts=1)
    for index, taken in ((4, 4), (5, 0), (7, 0)):  # after the last comes the first
        drawn = data[3, index]
        assert torch.equal(drawn.image, data[3, taken].image)
        assert torch.equal(drawn.tokens, data[3, taken].tokens)
        assert len(drawn.replaced) == (taken - index) % 8
    assert [one.id for one in data[0, 6].replaced] == ["toy/broken/6", "toy/broken/7"]
    assert data[0, 6].replaced[0].reason.startswith("image cannot be decoded: ")


def test_when_nothing_decodes_training_stops(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    data = dataset(broken(tmp_path, write_shard, jpeg, "01234567"))
    with pytest.raises(DataError, match=r"toy/broken/2 and the 7 pairs after it: no image can be"):
        data[0, 2]


def test_an_image_of_another_format_is_not_opened(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    shard = write_shard(
        tmp_path / "s.tar",
        {"a.jpg": postscript, "a.txt": b"a", "b.jpg": jpeg(), "b.txt": b"b"},
    )
    assert dataset(shard)[0, 0].replaced == (
        Skipped("toy/s/a", "image cannot be decoded: not an image"),
    )


def test_a_shard_that_was_cut_after_it_was_indexed_is_an_error(colour_shard: Path) -> None:
    data = dataset(colour_shard)
    colour_shard.write_bytes(colour_shard.read_bytes()[:3000])
    with pytest.raises(DataError, match="was cut since it was indexed"):
        data[0, 11]
    colour_shard.unlink()
    with pytest.raises(DataError, match=r"colours-00000.tar: cannot be read \(No such file"):
        data[0, 0]


class Forgetful:
    """A stub that knows some pairs only."""

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
        del count, seed, epoch
        return {"toy/colours-00000/00000": ["sky"]}[key]


def test_a_pair_without_entry_in_the_source_is_an_error_when_it_is_drawn(
    colour_shard: Path,
) -> None:
    data = dataset(colour_shard, concepts=1, source=Forgetful())
    assert len(data[0, 0].tokens) == 2
    with pytest.raises(DataError, match=r"^toy/colours-00000/00001: not in the concept archive"):
        data[0, 1]


def test_the_fingerprint_is_that_of_the_pairs(colour_shard: Path) -> None:
    data = dataset(colour_shard)
    plain = [PairDataset(pairs, data.augmentation) for pairs in (list(data.pairs), [data.pairs[1]])]
    assert data.fingerprint == dataset(colour_shard, seed=7).fingerprint
    prints = {one.fingerprint for one in (data, *plain)}
    assert len(prints) == 3 and {len(one) for one in prints} == {64}


def test_a_recipe_and_its_source_must_agree(colour_shard: Path) -> None:
    pairs, _ = index_shards([colour_shard], dataset="toy")
    archive = DataConfig(source="archive", augment="none")
    assert PairDataset.from_config(pairs, archive, 32, source=Source()).source is not None
    with pytest.raises(RecipeError, match="no concept archive is given; name one with --concepts"):
        PairDataset.from_config(pairs, archive, 32)
    with pytest.raises(RecipeError, match=r"has data\.source = 'captions'; set it to 'archive'"):
        PairDataset.from_config(pairs, DataConfig(augment="none"), 32, source=Source())


def test_streams_have_names() -> None:
    def draw(*parts: object) -> float:
        return float(stream(*parts).random())

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(0, "a", 2), draw(0, "b", 1), draw(1, "a", 1)}) == 4
    assert draw("a", "bc") != draw("ab", "c")
    assert isinstance(stream(0), np.random.Generator)


def test_strong_augmentation_survives_every_draw() -> None:
    transform = augmentation("strong", 16)
    image = Image.new("RGB", (20, 18), (200, 40, 90))
    for seed in range(600):  # posterize to 0 bits came about once in a hundred
        result = transform(image, np.random.default_rng(seed))
        assert result.shape == (3, 16, 16)
        assert bool(result.isfinite().all())
