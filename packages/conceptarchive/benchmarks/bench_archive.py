"""Ranking, clustering, neighbours and sampling, on one core, at 512 dimensions.

Run with `hatch run bench`. Ranking is also timed as a loop over images, which is how the
released code works; the two are checked against each other before anything is timed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from conceptarchive import (
    Embeddings,
    Mentions,
    Ranked,
    Vocabulary,
    build_archive,
    cluster_concepts,
    nearest,
    own_responses,
    rank_images,
)

IMAGES, CONCEPTS, DIM = 10_000, 3_805, 512
Rows = npt.NDArray[np.float32]
Bench = Any  # the fixture of pytest-benchmark has no public type


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit_rows(n: int, seed: int) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((n, DIM), np.float32) + 0.5
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def captions_of(n: int) -> Mentions:
    """About 2.5 concepts a caption, frequent ones more often."""
    random = np.random.default_rng(0)
    sizes = random.integers(0, 6, n)
    picked = [np.unique((CONCEPTS * random.random(size) ** 3).astype(np.uint32)) for size in sizes]
    offsets = np.cumsum([0, *map(len, picked)])
    return Mentions(offsets, np.concatenate(picked))


@pytest.fixture(scope="module", params=[8, 16], ids=["R=8", "R=16"])
def inputs(request: pytest.FixtureRequest) -> dict[str, Any]:
    images, features, mentions = unit_rows(IMAGES, 0), unit_rows(CONCEPTS, 1), captions_of(IMAGES)
    return {
        "images": images,
        "concept_features": features,
        "neighbours": np.random.default_rng(1).integers(0, IMAGES, (IMAGES, request.param)),
        "mentions": mentions,
        "own": own_responses(images, features, mentions),
    }


def rank_by_loop(
    images: Rows, concept_features: Rows, neighbours: npt.NDArray[np.int64], mentions: Mentions,
    own: Rows,
) -> list[list[int]]:  # fmt: skip
    """Eqs. 6-8 one image at a time."""
    out = []
    for image, rows in zip(images, neighbours, strict=True):
        witnesses: dict[int, list[float]] = {}
        for row in rows.tolist():
            part = slice(mentions.offsets[row], mentions.offsets[row + 1])
            for concept, response in zip(
                mentions.concepts[part].tolist(), own[part].tolist(), strict=True
            ):
                witnesses.setdefault(concept, []).append(response)
        anchor = dict(
            zip(witnesses, (concept_features[list(witnesses)] @ image).tolist(), strict=True)
        )
        largest = max([*anchor.values(), *(s for part in witnesses.values() for s in part), 1e-4])
        scores = {
            q: s / largest + s * (len(witnesses[q]) + 1) / (s + sum(witnesses[q]))
            for q, s in anchor.items()
        }
        out.append(sorted(scores, key=lambda q: (-scores[q], q)))
    return out


def report_rate(benchmark: Any, count: int, unit: str) -> None:
    benchmark.extra_info[f"{unit} a second"] = round(count / benchmark.stats.stats.median)


def test_rank(benchmark: Bench, inputs: dict[str, Any]) -> None:
    few = inputs | {"images": inputs["images"][:100], "neighbours": inputs["neighbours"][:100]}
    fast = rank_images(**few)
    parts = zip(fast.offsets[:-1], fast.offsets[1:], strict=True)
    same = [fast.concepts[a:b].tolist() for a, b in parts] == rank_by_loop(**few)
    assert same, "refuses to time a ranking that differs from the loop"
    benchmark(rank_images, **inputs)
    report_rate(benchmark, IMAGES, "images")


def test_rank_by_loop(benchmark: Bench, inputs: dict[str, Any]) -> None:
    few = inputs | {"images": inputs["images"][:500], "neighbours": inputs["neighbours"][:500]}
    benchmark(rank_by_loop, **few)
    report_rate(benchmark, 500, "images")


@pytest.mark.parametrize("clusters", ["concepts", "half"])
def test_cluster(benchmark: Bench, inputs: dict[str, Any], clusters: str) -> None:
    ranked: Ranked = rank_images(**inputs)
    benchmark(cluster_concepts, ranked, inputs["concept_features"], clusters=clusters)
    report_rate(benchmark, IMAGES, "images")


@pytest.mark.parametrize("pool", [10_000, 40_000])
def test_nearest(benchmark: Bench, pool: int) -> None:
    rows = unit_rows(pool, 0)
    benchmark.pedantic(nearest, (rows[:2000], rows), {"count": 8}, rounds=3)
    report_rate(benchmark, 2 * 2000 * pool * DIM // 10**9, "GFLOP")


@pytest.mark.parametrize("method", ["cluster", "naive", "top"])
def test_sample(benchmark: Bench, tmp_path: Path, method: str) -> None:
    images, mentions = unit_rows(2000, 0), captions_of(2000)
    names = tuple(f"w{n}" for n in range(CONCEPTS))
    captions = [" ".join(names[c] for c in mentions[row]) for row in range(2000)]
    pool = Embeddings.from_arrays([f"set/0/{n}" for n in range(2000)], captions, images)
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=Vocabulary(names),
        concept_features=unit_rows(CONCEPTS, 1),
    )  # fmt: skip
    sampler = archive.sampler(method)  # type: ignore[arg-type]  # a str of the three
    keys = archive.keys

    def draw_all() -> None:
        for key in keys:
            sampler.sample(key, count=3, seed=0, epoch=0)

    benchmark(draw_all)
    report_rate(benchmark, len(keys), "draws")
