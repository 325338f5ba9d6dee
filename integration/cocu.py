"""CoCu, stage by stage: from pairs to a scored model. Start here.

    pairs -> CLIP -> embed -> archive -> train (each arm and seed) -> evaluate -> report

The arms share data, steps and seeds, and differ in one thing: where the prompted concepts of a pair
come from. `baseline` draws nouns and verbs of the caption (GroupViT), `cocu` draws from the concept
archive, `upper-bound` from the classes that are really there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    MentionFinder,
    OpenClipEncoder,
    QualityReport,
    Vocabulary,
    archive_quality,
    build_archive,
    embed,
    find_shards,
    frequency_ranking,
    visualness,
)
from groupvit import GroupViTSegmenter, load_model, train
from integration.curator import train_curator
from integration.diagnostics import grouping_purity
from integration.recipe import Recipe, VocabularyConfig
from integration.report import write_report
from integration.stage import Stage, write_text
from integration.wiring import (
    ConceptSource,
    TrueConcepts,
    as_sets,
    best_device,
    check_covered,
    cpu_threads,
    mentioned_concepts,
    pair_dataset,
    ranked_concepts,
    read_truth,
    write_truth,
)
from segbench import ScenesDataset, Task, caption_gap, evaluate, load_task, write_pairs

FloatArray = npt.NDArray[np.float32]

KS = (1, 2, 3, 5)
DATASET = "train"
SHARD = 1000
GAP_SAMPLE = 1000

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "language-driven, eq. 6": {"expansion": "language", "ranking": "cosine"},
    "vision-driven, eq. 6": {"expansion": "vision", "ranking": "cosine"},
    "vision-driven, eqs. 7-8": {"expansion": "vision", "ranking": "relative"},
}
"""Curation of the ablation models #1, #2 and #3-4 (CoCu, sec. 4.3)."""


def scenes_stages(recipe: Recipe, seeds: Sequence[int], out: Path) -> list[Stage]:
    """All stages of a recipe on the embedded world, each after its inputs.

    Args:
        recipe: what to do.
        seeds: of GroupViT's training; data and archive are shared.
        out: root of the stage folders.
    """
    cost = recipe.costs
    world = {k: v for k, v in asdict(recipe.scenes).items() if k != "workers"}

    def scenes(split: str, count: int) -> ScenesDataset:
        return ScenesDataset(
            split=split,
            count=count,
            size_px=recipe.scenes.size_px,
            difficulty=recipe.scenes.difficulty,
            seed=recipe.scenes.seed,
        )

    pairs = Stage(
        name="pairs",
        settings=world,
        run=partial(_draw_pairs, scenes("train", recipe.scenes.train), recipe.scenes.workers),
        cost=cost.get("pairs", 1),
    )
    others = Stage(
        name="curator-pairs",
        settings=world,
        run=partial(_draw_pairs, scenes("curator", recipe.scenes.curator), recipe.scenes.workers),
        cost=cost.get("pairs", 1),
    )
    clip = Stage(
        name="clip",
        settings={k: v for k, v in asdict(recipe.curator).items() if k != "checkpoint_every"},
        inputs=(others,),
        run=lambda folder: _train_clip(recipe, others.folder(out), folder),
        cost=cost.get("clip", 1),
    )
    embedded = Stage(
        name="embed",
        settings={"precision": "float32"},
        inputs=(pairs, clip),
        run=lambda folder: _embed(pairs.folder(out), clip.folder(out), folder),
        cost=cost.get("embed", 1),
    )
    archive = Stage(
        name="archive",
        settings={"archive": asdict(recipe.archive), "vocabulary": asdict(recipe.vocabulary)},
        inputs=(pairs, clip, embedded),
        run=lambda folder: _curate(
            recipe, pairs.folder(out), clip.folder(out), embedded.folder(out), folder
        ),
        cost=cost.get("archive", 1),
    )
    task = load_task(recipe.evaluate.task).with_dataset(
        count=recipe.scenes.val,
        size_px=recipe.scenes.size_px,
        difficulty=recipe.scenes.difficulty,
        seed=recipe.scenes.seed,
    )
    runs = train_and_score(recipe, seeds, out, pairs, archive, task, data=None)
    return [pairs, others, clip, embedded, archive, *runs]


def train_and_score(
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    pairs: Stage,
    archive: Stage,
    task: Task,
    data: Path | None,
) -> list[Stage]:
    """Training and evaluation of every arm and seed, and the report over all of them.

    Args:
        recipe: what to do.
        seeds: of the training.
        out: root of the stage folders.
        pairs: stage with tar shards of the training pairs.
        archive: stage with the concept archive in `archive/`.
        task: what is scored.
        data: root of the task's data; None for procedural data.
    """
    scored_data = {} if data is None else {"files": _fingerprint_files(task, data)}
    stages: list[Stage] = []
    scored: dict[tuple[str, int], tuple[Stage, Stage]] = {}
    for seed in seeds:
        for arm in recipe.arms:
            trained = Stage(
                name=f"train-{arm}-{seed}",
                settings={
                    "arm": arm,
                    "train": asdict(recipe.train),
                    "seed": seed,
                    "sampling": asdict(recipe.sampling) if arm == "cocu" else None,
                },
                inputs=(pairs, archive) if arm == "cocu" else (pairs,),
                run=partial(_train, recipe, arm, seed, pairs.folder(out), archive.folder(out)),
                cost=recipe.costs.get("train", 1),
            )
            judged = Stage(
                name=f"evaluate-{arm}-{seed}",
                settings={"task": task.hash, "overlays": recipe.evaluate.overlays, **scored_data},
                inputs=(trained,),
                run=partial(_evaluate, recipe, arm, seed, trained.folder(out), task, data),
                cost=recipe.costs.get("evaluate", 1),
            )
            scored[arm, seed] = (trained, judged)
            stages += [trained, judged]
    report = Stage(
        name="report",
        settings={"recipe": recipe.name, "summary": recipe.summary},
        inputs=(archive, *stages),
        run=lambda folder: write_report(
            folder, recipe, out, pairs=pairs, archive=archive, runs=scored, task=task, data=data
        ),
        cost=recipe.costs.get("report", 1),
    )
    return [*stages, report]


def _fingerprint_files(task: Task, data: Path) -> str:
    """Hash of the names and sizes of a task's files, so that other data are another evaluation."""
    folder = data / str(task.dataset.get("folder", ""))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [[str(path.relative_to(folder)), path.stat().st_size] for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _draw_pairs(dataset: ScenesDataset, workers: int, folder: Path) -> None:
    """Write shards, and how much of what is to be seen their captions name."""
    shards = write_pairs(dataset, folder, shard_size=SHARD, workers=workers)
    write_truth(
        folder,
        {
            f"{DATASET}/{shards[index // SHARD].stem}/{index:09d}": sorted(dataset.present(index))
            for index in range(len(dataset))
        },
    )
    gap = caption_gap(replace(dataset, count=min(dataset.count, GAP_SAMPLE)))
    write_text(folder / "gap.json", json.dumps(asdict(gap), indent=1))


def _train_clip(recipe: Recipe, pairs: Path, folder: Path) -> None:
    train_curator(
        find_shards(pairs),
        recipe.curator,
        folder,
        device=best_device(),
        workers=recipe.train.data.workers,
    )


def _encoder(clip: Path) -> OpenClipEncoder:
    return OpenClipEncoder(f"local-dir:{clip}", device=str(best_device()))


def _embed(pairs: Path, clip: Path, folder: Path) -> None:
    embed(find_shards(pairs), _encoder(clip), folder, dataset=DATASET)


def _curate(recipe: Recipe, pairs: Path, clip: Path, embedded: Path, folder: Path) -> None:
    """Mine the vocabulary, build the archive, and judge it and its ablations."""
    embeddings = Embeddings.open(embedded)
    encoder = _encoder(clip)
    vocabulary, features = _mine(recipe.vocabulary, embeddings, encoder)
    vocabulary.save(folder / "vocabulary.txt")
    truth = as_sets(read_truth(pairs))
    quality = curate(
        folder, embeddings, vocabulary, features, recipe.archive, truth, encoder_id=encoder.id
    )
    write_text(folder / "quality.json", json.dumps(quality, indent=1))


def _mine(
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
    judge: Callable[[Mapping[str, Sequence[str]]], QualityReport] = partial(
        archive_quality, mentioned=mentioned, truth=truth, ks=ks
    )
    build(folder / "archive", config=config)
    reports: dict[str, QualityReport] = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        variant = replace(config, **changes)  # type: ignore[arg-type]  # checked literals
        found = build(folder / "ablations" / str(number), config=variant)
        reports[name] = judge(ranked_concepts(found))
    frequent = frequency_ranking(
        MentionFinder(vocabulary).find_all(embeddings.captions), vocabulary
    )
    reports["most frequent concepts"] = judge(dict.fromkeys(truth, frequent))
    reports["caption alone"] = judge({})
    return {name: asdict(report) for name, report in reports.items()}


def _train(recipe: Recipe, arm: str, seed: int, pairs: Path, archive: Path, folder: Path) -> None:
    """Train one arm; only the source of concepts differs between arms."""
    config = replace(recipe.train, seed=seed, data=replace(recipe.train.data, seed=seed))
    source: ConceptSource | None = None
    curated = ConceptArchive.open(archive / "archive") if arm == "cocu" else None
    if curated is not None:
        source = curated.sampler(recipe.sampling.method, recipe.sampling.temperature)
    elif arm == "upper-bound":
        source = TrueConcepts(read_truth(pairs))
    dataset = pair_dataset(
        find_shards(pairs), DATASET, config.data, config.model.vision.image_px, source
    )
    if curated is not None:
        check_covered([pair.id for pair in dataset.pairs], curated)
    with cpu_threads(recipe.train_threads):
        train(config, dataset, folder, device=best_device(), label=f"train {arm}, seed {seed}")


def _evaluate(
    recipe: Recipe,
    arm: str,
    seed: int,
    trained: Path,
    task: Task,
    data: Path | None,
    folder: Path,
) -> None:
    """Score one model, and look at its groups without any names."""
    device = best_device()
    segmenter = GroupViTSegmenter(load_model(trained).to(device), name=f"{arm}-{seed}")
    report = evaluate(
        segmenter,
        task,
        root=data,
        out=folder,
        device=device,
        overlays=recipe.evaluate.overlays,
        overwrite=True,
    )
    purity = grouping_purity(segmenter, task, data)
    summary = {**report.metrics, "grouping_purity": purity}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
