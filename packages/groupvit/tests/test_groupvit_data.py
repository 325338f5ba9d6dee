"""Shards with bad members, drawn texts, order, workers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from groupvit import DataError, PairDataset, augmentation, batches, index_shards, without_corrupt
from groupvit.data.pairs import EndlessBatches, Skipped, collate, stream
from groupvit.data.prompts import TEMPLATES
from groupvit.data.tokens import tokenize

Write = Callable[..., Path]


def dataset(shard: Path, **values: object) -> PairDataset:
    pairs, _ = index_shards([shard], dataset="toy")
    return PairDataset(pairs, augmentation("flip", 32), **values)  # type: ignore[arg-type]


def test_index_finds_pairs_in_order_and_says_what_it_left_out(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    shard = write_shard(
        tmp_path / "part-7.tar",
        {
            "b.txt": b"  two\n words ",
            "b.PNG": jpeg(),
            "b.json": b"{}",
            "a.jpg": jpeg(),
            "a.txt": "\u00e9t\u00e9".encode(),
            "lonely.txt": b"no image",
            "bare.jpg": jpeg(),
            "latin.jpg": jpeg(),
            "latin.txt": "\u00e9".encode("latin-1"),
            "twice.jpg": jpeg(),
            "twice.txt": b"first",
            "twice.jpeg": jpeg(),
        },
    )
    pairs, skipped = index_shards([shard], dataset="toy")
    assert [(p.id, p.caption) for p in pairs] == [
        ("toy/part-7/b", "two words"),
        ("toy/part-7/a", "\u00e9t\u00e9"),
        ("toy/part-7/twice", "first"),
    ]
    assert set(skipped) == {
        Skipped("toy/part-7/twice", "key occurs twice"),
        Skipped("toy/part-7/lonely", "no image"),
        Skipped("toy/part-7/bare", "no caption"),
        Skipped("toy/part-7/latin", "caption is not UTF-8"),
    }
    offset, length = pairs[1].image
    assert shard.read_bytes()[offset : offset + length] == jpeg()


@pytest.mark.parametrize("cut", [100, 600, 1024, 6000, 8192, -10_240, -10_700])
def test_a_cut_tar_is_an_error_wherever_it_is_cut(colour_shard: Path, cut: int) -> None:
    colour_shard.write_bytes(colour_shard.read_bytes()[:cut])
    with pytest.raises(
        DataError, match=r"colours-00000.tar: not a whole tar file .* write it again"
    ):
        index_shards([colour_shard], dataset="toy")


def test_nothing_to_read_is_an_error(tmp_path: Path, write_shard: Write) -> None:
    with pytest.raises(DataError, match="no tar shards"):
        index_shards([], dataset="toy")
    with pytest.raises(DataError, match="no such file"):
        index_shards([tmp_path / "none.tar"], dataset="toy")
    (tmp_path / "empty.tar").touch()
    with pytest.raises(DataError, match="not a whole tar"):
        index_shards([tmp_path / "empty.tar"], dataset="toy")
    with pytest.raises(DataError, match="no image-caption pairs"):
        index_shards([write_shard(tmp_path / "bare.tar", {})], dataset="toy")


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


def test_draws_change_with_the_epoch_and_repeat_within_it(colour_shard: Path) -> None:
    data, again = dataset(colour_shard), dataset(colour_shard)
    assert [data.texts(e, 1) for e in range(5)] == [again.texts(e, 1) for e in range(5)]
    assert len({tuple(data.texts(e, 1)) for e in range(5)}) > 1
    assert data.texts(0, 1) != dataset(colour_shard, seed=1).texts(0, 1)
    image, tokens = data[2, 4]
    assert torch.equal(image, again[2, 4][0])
    assert torch.equal(tokens, tokenize(again.texts(2, 4)))


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


def test_workers_and_decoded_images_change_nothing(colour_shard: Path) -> None:
    def read(workers: int, *, keep: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        data = dataset(colour_shard, concepts=2, keep_decoded=keep)
        return list(batches(data, batch=5, workers=workers, start=1, stop=5))

    plain = read(0, keep=False)
    for other in (read(2, keep=False), read(0, keep=True)):
        for (images, tokens), (more_images, more_tokens) in zip(plain, other, strict=True):
            assert torch.equal(images, more_images) and torch.equal(tokens, more_tokens)


@given(
    pairs=st.integers(3, 20),
    batch=st.integers(1, 3),
    start=st.integers(0, 15),
    seed=st.integers(0, 9),
)
def test_going_on_equals_an_unbroken_order(pairs: int, batch: int, start: int, seed: int) -> None:
    whole = list(EndlessBatches(pairs, batch, seed=seed, start=0, stop=20))
    rest = EndlessBatches(pairs, batch, seed=seed, start=start, stop=20)
    assert list(rest) == whole[start:] and len(rest) == 20 - start
    per_epoch = pairs // batch
    first = [place for one in whole[:per_epoch] for place in one]
    assert len(set(first)) == len(first) == per_epoch * batch  # no pair twice in an epoch
    assert {epoch for epoch, _ in first} == {0}


def test_epochs_differ_and_a_batch_needs_its_pairs() -> None:
    order = list(EndlessBatches(50, 50, seed=0, start=0, stop=2))
    assert [i for _, i in order[0]] != [i for _, i in order[1]]
    assert sorted(i for _, i in order[1]) == list(range(50))
    with pytest.raises(DataError, match="a batch of 4 pairs needs as many pairs, got 3"):
        EndlessBatches(3, 4, seed=0, start=0, stop=1)


def test_collate_cuts_the_padding_of_the_longest_text() -> None:
    image = torch.zeros(3, 4, 4)
    items = [(image, tokenize(["a cat", "cat"])), (image, tokenize(["a", "a red wall painted"]))]
    images, tokens = collate(items)
    assert images.shape == (2, 3, 4, 4)
    assert tokens.shape == (2, 2, 6)
    assert torch.equal(tokens[1, 1], items[1][1][1, :6])


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
