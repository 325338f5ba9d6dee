"""Curation of a stage: vocabulary, archive, and how much of the semantic gap it closes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptarchive import (
    ArchiveConfig,
    Embeddings,
    MentionFinder,
    OpenClipEncoder,
    Vocabulary,
    archive_quality,
    build_archive,
    frequency_ranking,
    visualness,
)
from integration.cocu.recipe import VocabularyConfig
from integration.wiring import best_device, mentioned_concepts, ranked_concepts

FloatArray = npt.NDArray[np.float32]

KS = (1, 2, 3, 5)

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "language-driven, eq. 6": {"expansion": "language", "ranking": "cosine"},
    "vision-driven, eq. 6": {"expansion": "vision", "ranking": "cosine"},
    "vision-driven, eqs. 7-8": {"expansion": "vision", "ranking": "relative"},
}
"""Curation of the ablation models #1, #2 and #3-4 (CoCu, sec. 4.3)."""


def mine(
    config: VocabularyConfig, embeddings: Embeddings, encoder: OpenClipEncoder
) -> tuple[Vocabulary, FloatArray]:
    """Nouns of the captions that can be seen, and their (V, D) unit rows."""
    nouns = Vocabulary.mine(
        embeddings.captions, min_count=config.min_count, max_size=config.max_size
    )
    features = encoder.encode_texts(nouns.prompts()).numpy()  # (V, D)
    if config.min_visualness <= 0:
        return nouns, features
    mentions = MentionFinder(nouns).find_all(embeddings.captions)
    visible = visualness(embeddings.image, features, mentions) >= config.min_visualness  # (V,)
    names = tuple(name for name, keep in zip(nouns.names, visible, strict=True) if keep)
    return Vocabulary(names), features[visible]


def curate(
    folder: Path,
    embeddings: Embeddings,
    vocabulary: Vocabulary,
    features: FloatArray,
    config: ArchiveConfig,
    truth: Mapping[str, frozenset[str]],
    *,
    encoder_id: str,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """Build `folder/archive` and judge it beside the ablations and the frequency baseline.

    Args:
        folder: of the stage; the ablations' archives go to `folder/ablations`.
        embeddings: pairs, their own pool.
        vocabulary: V concepts.
        features: (V, D) unit rows.
        config: of the archive that is trained with.
        truth: concepts that are really there, by pair id; only pairs in it are judged.
        encoder_id: for the record.
        ks: places to look at.

    Returns:
        A quality report for every way of ranking, as plain values.
    """
    captions = dict(zip(embeddings.keys, embeddings.captions, strict=True))
    mentioned = mentioned_concepts(vocabulary, captions)
    build = partial(
        build_archive,
        anchors=embeddings,
        pool=embeddings,
        vocabulary=vocabulary,
        concept_features=features,
        encoder_id=encoder_id,
        device=str(best_device()),
    )
    build(folder / "archive", config=config)
    rankings: dict[str, Mapping[str, Sequence[str]]] = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        variant = replace(config, **changes)  # type: ignore[arg-type]  # checked literals
        rankings[name] = ranked_concepts(build(folder / "ablations" / str(number), config=variant))
    mentions = MentionFinder(vocabulary).find_all(embeddings.captions)
    frequent = frequency_ranking(mentions, vocabulary)
    rankings["most frequent concepts"] = dict.fromkeys(truth, frequent)
    rankings["caption alone"] = {}
    return {
        name: asdict(archive_quality(ranked, mentioned, truth, ks))
        for name, ranked in rankings.items()
    }
