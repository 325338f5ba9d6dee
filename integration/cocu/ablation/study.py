"""Archives of an ablation, judged by what images show: no training needed."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    PairScores,
    Vocabulary,
    archive_quality,
    build_archive,
    difference,
    pair_scores,
)
from integration.cocu.ablation.curations import MODELS, Curation
from integration.cocu.ablation.draws import draw_quality
from integration.cocu.curation import FloatArray
from integration.cocu.recipe import Recipe
from integration.wiring import best_device, mentioned_concepts, ranked_concepts

KS = (1, 3, 5)
K = 3
"""Places that steps of the ablation are compared at: as many as concepts are drawn of a pair."""


def study_settings(recipe: Recipe, curations: Mapping[str, Curation]) -> dict[str, Any]:
    """What a study hangs on, beside its archives."""
    return {
        "curations": {name: asdict(each) for name, each in curations.items()},
        "concepts": recipe.train.data.concepts,
    }


def build(
    config: ArchiveConfig,
    vocabulary: Vocabulary,
    features: FloatArray,
    anchors: Embeddings,
    pool: Embeddings,
    encoder_id: str,
    folder: Path,
) -> None:
    """Build an archive as `folder/archive`; `features` are the (V, D) rows of its vocabulary."""
    build_archive(
        folder / "archive",
        anchors=anchors,
        pool=pool,
        vocabulary=vocabulary,
        concept_features=features,
        config=config,
        encoder_id=encoder_id,
        device=str(best_device()),
    )


def judge(
    recipe: Recipe,
    curations: Mapping[str, Curation],
    archives: Mapping[str, Path],
    vocabularies: Mapping[str, Vocabulary],
    truth: Mapping[str, frozenset[str]],
) -> dict[str, Any]:
    """Judge every curation by its archive and by what a trainer draws from it.

    What a caption mentions is the same for all, whatever their vocabulary: any name of any of the
    vocabularies. So all are judged on the same missing concepts.

    Args:
        recipe: says how many concepts a trainer draws.
        curations: with the paper's models among them.
        archives: folder of `archive/` by `Curation.archive_name`.
        vocabularies: of the archives, by what curations call them.
        truth: concepts that each image shows; only these pairs are judged.

    Returns:
        `curations`: the archive's quality and that of draws, by curation. `steps`: recall@K of each
        model less that of the model before, with its paired bootstrap interval (95 %) over pairs.
        `vocabularies`: their sizes.
    """
    opened = {name: ConceptArchive.open(folder / "archive") for name, folder in archives.items()}
    first = next(iter(opened.values()))
    names = dict.fromkeys(name for each in vocabularies.values() for name in each.names)
    captions = {key: first.caption(key) for key in first.keys}
    mentioned = mentioned_concepts(Vocabulary(tuple(names)), captions)
    quality: dict[str, dict[str, Any]] = {}
    scores: dict[str, PairScores] = {}
    for name, archive in opened.items():
        ranked = ranked_concepts(archive)
        quality[name] = asdict(archive_quality(ranked, mentioned, truth, KS))
        quality[name]["concepts"] = sum(map(len, ranked.values())) / len(ranked)
        scores[name] = pair_scores(ranked, mentioned, truth, KS)
    found: dict[str, Any] = {}
    for name, curation in curations.items():
        built = curation.archive_name(recipe)
        sampling = curation.sampling
        sampler = opened[built].sampler(sampling.method, sampling.temperature)
        draws = draw_quality(sampler, mentioned, truth, count=recipe.train.data.concepts)
        found[name] = {
            "about": curation.about,
            "archive": built,
            **quality[built],
            "draws": asdict(draws),
        }
    return {
        "curations": found,
        "steps": _steps(recipe, scores),
        "vocabularies": {name: len(each) for name, each in vocabularies.items()},
    }


def _steps(recipe: Recipe, scores: Mapping[str, PairScores]) -> list[dict[str, Any]]:
    """Each model less the one before, where they have other archives."""
    built = {name: scores[curation.archive_name(recipe)] for name, curation in MODELS.items()}
    steps = []
    for (before, old), (after, new) in pairwise(built.items()):
        gain = difference(new, old, k=K)
        steps.append({"from": before, "to": after, **gain._asdict(), "same": new is old})
    return steps
