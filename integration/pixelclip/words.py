"""Words that class prompts start from: of the captions, or of a concept archive's clusters."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from conceptarchive import (
    ArchiveConfig,
    Embeddings,
    OpenClipEncoder,
    build_archive,
    embed,
    find_shards,
)
from groupvit import stream
from integration.cocu.curation import mine
from integration.errors import RecipeError
from integration.pixelclip.recipe import PixelclipRecipe
from integration.pixelclip.runs import World
from integration.stage import write_text
from integration.wiring import DATASET, best_device

WORDS = "words.json"


ARCHIVE = ArchiveConfig(response="shifted")
"""How the archive is made: a small CLIP's cosines are about 0, and ratios of them explode."""


class RankedConcept(Protocol):
    """A concept of a pair."""

    @property
    def name(self) -> str:
        """As the vocabulary has it."""
        ...

    @property
    def score(self) -> float:
        """How much it belongs to the pair."""
        ...


class ConceptRanking(Protocol):
    """What a concept archive is here: concepts of pairs, best first."""

    @property
    def keys(self) -> Sequence[str]:
        """Of the pairs."""
        ...

    def concepts(self, key: str) -> Sequence[RankedConcept]:
        """Of one pair."""
        ...


def caption_words(recipe: PixelclipRecipe, seed: int, world: World, folder: Path) -> None:
    """Write the nouns of CLIP's captions in random order."""
    embeddings, encoder = _embedded(world, seed, folder)
    vocabulary, _ = mine(recipe.vocabulary, embeddings, encoder)
    order = stream(seed, "caption words").permutation(len(vocabulary.names))
    write_words(folder, [vocabulary.names[at] for at in order])


def archive_words(recipe: PixelclipRecipe, seed: int, world: World, folder: Path) -> None:
    """Build a concept archive of CLIP's pairs, and write the names of its concepts' clusters."""
    embeddings, encoder = _embedded(world, seed, folder)
    vocabulary, features = mine(recipe.vocabulary, embeddings, encoder)
    archive = build_archive(
        folder / "archive",
        anchors=embeddings,
        pool=embeddings,
        vocabulary=vocabulary,
        concept_features=features,
        encoder_id=encoder.id,
        device=str(best_device()),
        config=ARCHIVE,
    )
    names = cluster_names(archive, vocabulary.names, features, most_clusters(recipe), seed=seed)
    write_words(folder, names)


def most_clusters(recipe: PixelclipRecipe) -> int:
    """Most clusters of any arm that is trained."""
    return max(recipe.arms[name].train.cluster.clusters for name in recipe.chosen)


def cluster_names(
    archive: ConceptRanking,
    names: Sequence[str],
    features: npt.NDArray[np.float32],
    clusters: int,
    *,
    seed: int,
) -> list[str]:
    """Group the concepts of an archive, and name every group after its strongest concept.

    Args:
        archive: concepts of pairs with their scores.
        names: of the V concepts of its vocabulary.
        features: (V, D) their unit rows.
        clusters: groups that are wanted; as many as there are concepts if that is less.
        seed: of k-means.

    Returns:
        One name a group, that of the highest sum of scores over pairs first.

    Raises:
        RecipeError: no pair has a concept.
    """
    strength: Counter[str] = Counter()
    for key in archive.keys:
        strength.update({one.name: one.score for one in archive.concepts(key)})
    used = [at for at, name in enumerate(names) if name in strength]
    if not used:
        raise RecipeError("no pair of the archive has a concept: prompts need other words")
    wanted = min(clusters, len(used))
    from sklearn.cluster import KMeans  # sets environment variables of OpenMP

    groups = KMeans(wanted, n_init=4, random_state=seed).fit_predict(features[used])  # (U,)
    best: dict[int, str] = {}
    for group, at in zip(groups, used, strict=True):
        if group not in best or strength[names[at]] > strength[best[group]]:
            best[group] = names[at]
    return sorted(best.values(), key=lambda name: -strength[name])


def write_words(folder: Path, words: Sequence[str]) -> None:
    """Write words in the order in which they are taken."""
    write_text(folder / WORDS, json.dumps(list(words), indent=1))


def read_words(folder: Path, count: int) -> list[str]:
    """The first `count` words of a stage; taken again from the first where there are fewer."""
    words: list[str] = json.loads((folder / WORDS).read_text())
    return list(islice(cycle(words), count))


def _embedded(world: World, seed: int, folder: Path) -> tuple[Embeddings, OpenClipEncoder]:
    """Captioned pictures as the CLIP of a seed sees them."""
    assert world.captions is not None  # or the arm would have been refused
    encoder = OpenClipEncoder(world.clip(seed).architecture, device=str(best_device()))
    embed(find_shards(world.captions), encoder, folder / "embeddings", dataset=DATASET)
    return Embeddings.open(folder / "embeddings"), encoder
