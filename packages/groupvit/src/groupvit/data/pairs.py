"""Pairs for training: drawn texts, augmentation, order.

Everything that is drawn for a pair depends on (seed, epoch, pair) alone, and the order of an epoch
on (seed, epoch): the same batches come out whatever the number of workers and ranks, and a run goes
on at any step.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from groupvit.config import DataConfig
from groupvit.data.augment import Augmentation, augmentation
from groupvit.data.concepts import (
    ConceptSource,
    check_source,
    reading_concepts,
)
from groupvit.data.images import UndecodableError, decode
from groupvit.data.index import Location, Pairs, Skipped
from groupvit.data.loader import Draw, PairLoader
from groupvit.data.nouns import caption_words
from groupvit.data.order import EndlessBatches, Place
from groupvit.data.prompts import TEMPLATE_SETS
from groupvit.data.streams import stream
from groupvit.data.tokens import tokenize
from groupvit.errors import DataError

TRIES = 100
"""Pairs that are tried in the place of one whose image does not decode."""

_Decoded = tuple[npt.NDArray[np.uint8], str]


class PairDataset(Dataset[Draw]):
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
        self._decoded: dict[int, _Decoded] | None = {} if keep_decoded else None

    @classmethod
    def from_config(
        cls,
        pairs: Sequence[Location],
        config: DataConfig,
        image_px: int,
        *,
        source: ConceptSource | None = None,
    ) -> "PairDataset":
        """Pairs drawn as a recipe says; pictures of `image_px` pixels a side.

        Raises:
            RecipeError: `config.source` asks for a concept archive and `source` is None, or the
                other way round.
        """
        check_source(config, source)
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is drawn from: runs that differ in it see other pairs or concepts.

        That of `Pairs`, or the ids of any other sequence; with that of the source, if it has one.
        """
        if isinstance(self.pairs, Pairs):
            pool = self.pairs.fingerprint
        else:
            pool = hashlib.sha256("\n".join(p.id for p in self.pairs).encode()).hexdigest()
        source = getattr(self.source, "fingerprint", None)
        if source is None:
            return pool
        return hashlib.sha256(f"{pool}\n{source}".encode()).hexdigest()

    def __getitem__(self, place: Place) -> Draw:
        """Pair `index` as it is drawn in `epoch`.

        If its image does not decode, the next pair that has one takes its place.

        Args:
            place: (epoch, index).

        Raises:
            DataError: the shard cannot be read, none of `TRIES` images decodes, or the source does
                not know the pair.
        """
        epoch, index = place
        replaced: list[Skipped] = []
        for _ in range(min(TRIES, len(self.pairs))):
            pair = self.pairs[index]
            try:
                image, caption = self._load(index, pair)
            except UndecodableError as error:
                replaced.append(Skipped(pair.id, f"image cannot be decoded: {error}"))
                index = (index + 1) % len(self.pairs)
                continue
            pixels = self.augmentation(image, stream(self.seed, epoch, "image", pair.id))
            texts = self._texts(pair.id, caption, epoch)
            return Draw(pixels, tokenize(texts), tuple(replaced))
        raise DataError(
            f"{replaced[0].id} and the {len(replaced) - 1} pairs after it: no image can be decoded"
        )

    def texts(self, epoch: int, index: int) -> list[str]:
        """The caption and L prompted concepts; the caption fills the places of missing ones."""
        pair = self.pairs[index]
        return self._texts(pair.id, pair.caption, epoch)

    def _texts(self, key: str, caption: str, epoch: int) -> list[str]:
        rng = stream(self.seed, epoch, "texts", key)
        words = self._words(key, caption, epoch, rng)
        prompts = [
            self.templates[int(rng.integers(len(self.templates)))].format(word) for word in words
        ]
        return [caption, *prompts, *[caption] * (self.concepts - len(prompts))]

    def _words(self, key: str, caption: str, epoch: int, rng: np.random.Generator) -> Sequence[str]:
        """At most L words to prompt with, from the source or else from the caption."""
        if not self.concepts:
            return []
        if self.source is None:
            words = caption_words(caption)
            count = min(self.concepts, len(words))
            chosen = rng.choice(len(words), count, replace=False).tolist() if count else []
            return [words[i] for i in chosen]
        with reading_concepts(key):
            return self.source.sample(key, count=self.concepts, seed=self.seed, epoch=epoch)

    def _load(self, index: int, pair: Location) -> tuple[Image.Image, str]:
        """Image and caption of a pair, from memory if they are kept."""
        if self._decoded is None:
            content, caption = pair.read()
            return decode(content), caption
        if index not in self._decoded:
            content, caption = pair.read()
            self._decoded[index] = np.asarray(decode(content)), caption
        pixels, caption = self._decoded[index]
        return Image.fromarray(pixels), caption


def batches(
    dataset: PairDataset,
    *,
    batch: int,
    workers: int,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
) -> PairLoader:
    """Batches of steps `start` to `stop` - 1.

    Args:
        dataset: of the whole pool, on every rank.
        batch: pairs of a step, over all ranks.
        workers: loader processes of this rank; 0 loads in this process.
        start: first step.
        stop: step after the last.
        rank: of this process.
        world: number of ranks; together they see what one would, in the same number of batches.

    Returns:
        loader of (images (b, 3, H, W) float32, texts of shape (b, 1 + L)), b = batch / world.

    Raises:
        DataError: fewer pairs than a batch.
        RecipeError: `batch` is not a multiple of `world`.
    """
    order = EndlessBatches(
        len(dataset), batch, seed=dataset.seed, start=start, stop=stop, rank=rank, world=world
    )
    tokenize([""])  # forked workers share the libraries and tables that this loads
    if dataset.source is None and dataset.concepts:
        caption_words("")
    return PairLoader(dataset, order, workers)
