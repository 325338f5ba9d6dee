"""Pairs for training: indexed tar shards, drawn texts, augmentation, order.

Everything that is drawn for a pair depends on (seed, epoch, pair) alone, and the order of an epoch
on (seed, epoch): the same batches come out whatever the number of workers, and a run goes on at any
step without a loader state to save.
"""

import hashlib
import io
import logging
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from groupvit.data.augment import Augmentation, augmentation
from groupvit.config import DataConfig
from groupvit.errors import DataError
from groupvit.data.nouns import caption_words
from groupvit.data.prompts import TEMPLATE_SETS
from groupvit.model.text import trim
from groupvit.data.tokens import tokenize

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
CAPTION_SUFFIXES = frozenset({"txt", "text"})


class ConceptSource(Protocol):
    """Where the prompted concepts of a pair come from, if not from its caption."""

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
        """Draw at most `count` different concepts of the pair `key` ("dataset/shard/key").

        The same (key, seed, epoch) gives the same concepts, in any process.
        """
        ...


def stream(*parts: object) -> np.random.Generator:
    """A random stream of its own for every name, e.g. `stream(seed, epoch, "texts", key)`."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


@dataclass(frozen=True, slots=True)
class Location:
    """Where a pair lies: byte ranges in a tar file."""

    id: str
    """dataset/shard/key."""
    shard: Path
    image: tuple[int, int]
    """Offset and length."""
    caption: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A pair that was left out."""

    id: str
    reason: str


def index_shards(shards: Sequence[Path], *, dataset: str) -> tuple[list[Location], list[Skipped]]:
    """Find all pairs of img2dataset tar shards without decoding an image.

    Args:
        shards: tar files with KEY.jpg|jpeg|png|webp and KEY.txt|text.
        dataset: name that makes keys of several data sets distinct.

    Returns:
        pairs in order of shard and place, and what was left out: keys without image or caption,
        captions that are not UTF-8, keys that occur twice.

    Raises:
        DataError: no shard, a shard that is not a whole tar file, or no pair at all.
    """
    if not shards:
        raise DataError("no tar shards given; name at least one .tar file of image-caption pairs")
    pairs: list[Location] = []
    skipped: list[Skipped] = []
    for shard in shards:
        found, left_out = _index_shard(shard, dataset)
        pairs += found
        skipped += left_out
    if not pairs:
        raise DataError(f"no image-caption pairs in {shards[0]} and {len(shards) - 1} more shards")
    if skipped:
        log.warning("%d pairs left out, first: %s", len(skipped), skipped[0])
    return pairs, skipped


def _index_shard(shard: Path, dataset: str) -> tuple[list[Location], list[Skipped]]:
    images: dict[str, tuple[int, int]] = {}
    captions: dict[str, bytes] = {}
    twice: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                suffix = suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    twice |= {key} & images.keys()
                    images.setdefault(key, (member.offset_data, member.size))
                elif suffix in CAPTION_SUFFIXES:
                    content = tar.extractfile(member)
                    captions.setdefault(key, content.read() if content else b"")
            _check_end(tar)
    except FileNotFoundError as error:
        raise DataError(f"{shard}: no such file") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{shard}: not a whole tar file ({error}); write it again") from error
    return _join(shard, dataset, images, captions, twice)


def _check_end(tar: tarfile.TarFile) -> None:
    """A block of zeros ends an archive; tarfile stops in silence at anything else."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end of archive at byte {tar.offset}")


def _join(
    shard: Path,
    dataset: str,
    images: dict[str, tuple[int, int]],
    captions: dict[str, bytes],
    twice: set[str],
) -> tuple[list[Location], list[Skipped]]:
    pairs: list[Location] = []
    skipped = [
        Skipped(f"{dataset}/{shard.stem}/{key}", "key occurs twice") for key in sorted(twice)
    ]
    for key in [*images, *(captions.keys() - images.keys())]:
        name = f"{dataset}/{shard.stem}/{key}"
        if key not in images or key not in captions:
            skipped.append(Skipped(name, "no image" if key not in images else "no caption"))
            continue
        try:
            caption = captions[key].decode()
        except UnicodeDecodeError:
            skipped.append(Skipped(name, "caption is not UTF-8"))
            continue
        pairs.append(Location(name, shard, images[key], " ".join(caption.split())))
    return pairs, skipped


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Image-caption pairs with prompted concepts, by (epoch, index).

    Args:
        pairs: from `index_shards`.
        augmentation: image -> (3, H, W) float32, normalised.
        concepts: prompted concepts a pair (L); 0 gives the caption alone.
        source: where concepts come from; None draws nouns and verbs of the caption, GroupViT's way.
        templates: sentences around a concept, see `DataConfig.templates`.
        seed: of all draws.
        keep_decoded: keep decoded images in memory.
    """

    def __init__(
        self,
        pairs: Sequence[Location],
        augmentation: Augmentation,
        *,
        concepts: int = 3,
        source: ConceptSource | None = None,
        templates: Literal["clip80", "simple"] = "clip80",
        seed: int = 0,
        keep_decoded: bool = False,
    ) -> None:
        self.pairs = pairs
        self.augmentation = augmentation
        self.concepts = concepts
        self.source = source
        self.templates = TEMPLATE_SETS[templates]
        self.seed = seed
        self._words: dict[int, tuple[str, ...]] = {}
        self._decoded: dict[int, npt.NDArray[np.uint8]] | None = {} if keep_decoded else None

    @classmethod
    def from_config(
        cls,
        pairs: Sequence[Location],
        config: DataConfig,
        image_px: int,
        *,
        source: ConceptSource | None = None,
    ) -> "PairDataset":
        """Pairs drawn as a recipe says; pictures of `image_px` pixels a side."""
        return cls(
            pairs,
            augmentation(config.augment, image_px),
            concepts=config.concepts,
            source=source,
            templates=config.templates,
            seed=config.seed,
            keep_decoded=config.keep_decoded,
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pair `index` as it is drawn in `epoch`.

        Args:
            place: (epoch, index).

        Returns:
            image: (3, H, W) float32.
            tokens: (1 + L, 77) int64, the caption and L prompts.
        """
        epoch, index = place
        pair = self.pairs[index]
        image = self.augmentation(self._image(index), stream(self.seed, epoch, "image", pair.id))
        return image, tokenize(self.texts(epoch, index))

    def texts(self, epoch: int, index: int) -> list[str]:
        """The caption and L prompted concepts; the caption fills the places of missing ones."""
        pair = self.pairs[index]
        rng = stream(self.seed, epoch, "texts", pair.id)
        if self.source is not None:
            drawn = list(
                self.source.sample(pair.id, count=self.concepts, seed=self.seed, epoch=epoch)
            )
        else:
            words = self._caption_words(index)
            count = min(self.concepts, len(words))
            drawn = (
                [words[i] for i in rng.choice(len(words), count, replace=False)] if count else []
            )
        prompts = [
            self.templates[int(rng.integers(len(self.templates)))].format(word) for word in drawn
        ]
        return [pair.caption, *prompts, *[pair.caption] * (self.concepts - len(prompts))]

    def _caption_words(self, index: int) -> tuple[str, ...]:
        if index not in self._words:
            self._words[index] = caption_words(self.pairs[index].caption)
        return self._words[index]

    def _image(self, index: int) -> Image.Image:
        if self._decoded is None:
            return _decode(self.pairs[index])
        if index not in self._decoded:
            self._decoded[index] = np.asarray(_decode(self.pairs[index]))
        return Image.fromarray(self._decoded[index])


def _decode(pair: Location) -> Image.Image:
    offset, length = pair.image
    with pair.shard.open("rb") as shard:
        shard.seek(offset)
        content = shard.read(length)
    return Image.open(io.BytesIO(content)).convert("RGB")


def without_corrupt(pairs: Sequence[Location]) -> tuple[list[Location], list[Skipped]]:
    """Leave out pairs whose image cannot be decoded; reads every image once."""
    kept: list[Location] = []
    skipped: list[Skipped] = []
    for pair in pairs:
        try:
            _decode(pair)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            skipped.append(Skipped(pair.id, f"image cannot be decoded: {error}"))
        else:
            kept.append(pair)
    if skipped:
        log.warning("%d images left out, first: %s", len(skipped), skipped[0])
    if not kept:
        raise DataError("none of the images can be decoded")
    return kept, skipped


class EndlessBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from a given step on, shuffled anew every epoch.

    Args:
        pairs: number of pairs.
        batch: pairs a batch; what is left over at the end of an epoch is dropped.
        seed: of the order.
        start: first step.
        stop: step after the last.
    """

    def __init__(self, pairs: int, batch: int, *, seed: int, start: int, stop: int) -> None:
        if pairs < batch:
            raise DataError(f"a batch of {batch} pairs needs as many pairs, got {pairs}")
        self.pairs, self.batch, self.seed = pairs, batch, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches in order."""
        per_epoch = self.pairs // self.batch
        order: npt.NDArray[np.int64] | None = None
        for step in range(self.start, self.stop):
            epoch, place = divmod(step, per_epoch)
            if order is None or place == 0:
                order = stream(self.seed, "order", epoch).permutation(self.pairs)
            chosen = order[place * self.batch : (place + 1) * self.batch]
            yield [(epoch, int(index)) for index in chosen]


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack pairs: images (B, 3, H, W) and tokens (B, 1 + L, T), padding trimmed."""
    images = torch.stack([image for image, _ in items])
    tokens = torch.stack([tokens for _, tokens in items])  # (B, 1 + L, 77)
    return images, trim(tokens.flatten(0, 1)).view(*tokens.shape[:2], -1)


def batches(
    dataset: PairDataset, *, batch: int, workers: int, start: int, stop: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of steps `start` to `stop` - 1."""
    sampler = EndlessBatches(len(dataset), batch, seed=dataset.seed, start=start, stop=stop)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
