"""Stages of curation on pairs: CLIP's rows of every set, the vocabulary, the archives."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from conceptarchive import (
    ArrayEngine,
    Embeddings,
    OpenClipEncoder,
    UsageError,
    Vocabulary,
    build_archive,
    embed,
)
from integration.cocu.ablation.curations import Curation
from integration.errors import RecipeError
from integration.papers.arms import archive_config
from integration.papers.launch import Ranks
from integration.papers.recipe import PairsRecipe
from integration.stage import write_text
from integration.wiring import best_device

NAMES = "vocabulary.txt"
FEATURES = "features.npy"
SEARCH = "search.json"


def open_encoder(folder: Path) -> OpenClipEncoder:
    """The CLIP that curates: in float16 on a GPU, as released, and in float32 elsewhere."""
    device = best_device()
    return OpenClipEncoder(
        f"local-dir:{folder}",
        device=str(device),
        precision="float16" if device.type == "cuda" else "float32",
    )


def embed_set(name: str, shards: Sequence[Path], clip: Path, ranks: Ranks, folder: Path) -> None:
    """Embed images and captions of a set, every rank its shards; all arms then share the rows."""
    embed(
        shards,
        open_encoder(clip),
        folder,
        dataset=name,
        rank=ranks.rank,
        world_size=ranks.world,
    )


def write_vocabulary(
    recipe: PairsRecipe, embedded: Sequence[Path], gallery: Path | None, clip: Path, folder: Path
) -> None:
    """Read or mine the concepts, and embed their prompts once for all archives.

    Raises:
        RecipeError: no noun is as frequent as asked for.
    """
    if gallery is not None:
        found = Vocabulary.from_file(gallery)
    else:
        config = recipe.vocabulary
        captions = Embeddings.open(*embedded).captions
        try:
            found = Vocabulary.mine(captions, min_count=config.min_count, max_size=config.max_size)
        except ValueError as error:
            raise RecipeError(f"{recipe.name}: vocabulary: {error}") from error
    features = open_encoder(clip).encode_texts(found.prompts()).numpy()  # (V, D)
    np.save(folder / FEATURES, features)
    found.save(folder / NAMES)


def write_archive(
    recipe: PairsRecipe,
    curation: Curation,
    anchors: Sequence[Path],
    pool: Sequence[Path],
    folder: Path,
    *,
    words: Path,
    ranks: Ranks,
) -> None:
    """Build an archive of all sets, every rank a part of it.

    Args:
        recipe: of the run.
        curation: of the arm.
        anchors: folders of embeddings to enrich.
        pool: folders to search; the same where the pairs are their own pool.
        folder: gets `archive/`, and how references were searched.
        words: folder of `write_vocabulary`.
        ranks: this process among the others.
    """
    enriched = Embeddings.open(*anchors)
    searched = enriched if list(pool) == list(anchors) else Embeddings.open(*pool)
    try:
        built = build_archive(
            folder / "archive",
            anchors=enriched,
            pool=searched,
            vocabulary=Vocabulary.from_file(words / NAMES),
            concept_features=np.load(words / FEATURES),
            config=archive_config(curation, recipe.archive),
            search=recipe.search,
            encoder_id=enriched.encoder_id or "unknown",
            device=str(best_device()),
            engine=ArrayEngine(ranks.rank, ranks.world) if ranks.world > 1 else None,
        )
    except ValueError as error:
        raise UsageError(f"{folder}: {error}") from error
    if ranks.leads:
        search = {name: str(value) for name, value in built.manifest["search"].items()}
        write_text(folder / SEARCH, json.dumps({"pairs": len(built), **search}, indent=1))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
