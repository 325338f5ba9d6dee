"""Ranking, clustering and sampling at 512 dimensions, beside the released code's way of working.

Run with `hatch run bench`. The release curates one image at a time: it gathers the embeddings of
its reference images, scores a dictionary of concepts and runs scikit-learn's KMeans on them. That
is made anew here from its description, without its index search, its tars and its text files. It
is checked against ours for equal scores before anything is timed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numba
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

from conceptarchive import Mentions, Ranked, cluster_concepts, own_responses, rank_images
from conceptarchive.curation.cluster import vocabulary_gram
from conceptarchive.curation.rank import keep_best
from conceptarchive.curation.sample import Method, draw_batch

IMAGES, CONCEPTS, DIM = 20_000, 3_805, 512
MANY_CONCEPTS = 20_000  # no Gram matrix of so large a vocabulary is kept
MAX_CONCEPTS = 64  # of an image, as the default configuration
RELEASE_IMAGES = 100  # timed at once: 0.6 s with clusters
REPEATS = 5  # A and B in turn; medians are reported
FloatArray = npt.NDArray[np.float32]
Bench = Any  # the fixture of pytest-benchmark has no public type
Release = list[tuple[dict[int, float], list[int]]]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads for ours, and one for everything else."""
    before = numba.config.NUMBA_NUM_THREADS
    numba.config.NUMBA_NUM_THREADS = count
    try:
        with threadpool_limits(1):
            yield
    finally:
        numba.config.NUMBA_NUM_THREADS = before


def unit_rows(n: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM), np.float32) + 0.5
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def captions_of(n: int, concepts: int) -> Mentions:
    """About 2.5 concepts a caption, frequent ones more often: 14 an image at 8 neighbours."""
    random = np.random.default_rng(0)
    sizes = random.integers(0, 6, n)
    picked = [np.unique((concepts * random.random(size) ** 5).astype(np.uint32)) for size in sizes]
    offsets = np.cumsum([0, *map(len, picked)])
    return Mentions(offsets, np.concatenate(picked))


@dataclass(frozen=True)
class Curation:
    """What ranking and clustering start from, in a build: one shard and the whole pool."""

    images: npt.NDArray[np.float16]
    features: FloatArray
    neighbours: npt.NDArray[np.int64]
    mentions: Mentions
    own: FloatArray
    gram: FloatArray | None

    @classmethod
    def make(cls, neighbours: int, concepts: int = CONCEPTS) -> "Curation":
        images, features = unit_rows(IMAGES, 0).astype(np.float16), unit_rows(concepts, 1)
        mentions = captions_of(IMAGES, concepts)
        rows = np.random.default_rng(1).permuted(
            np.tile(np.arange(IMAGES), (neighbours, 1)), axis=1
        )
        own = own_responses(images, features, mentions)
        return cls(images, features, rows.T.copy(), mentions, own, vocabulary_gram(features))

    def first(self, images: int) -> "Curation":
        """The same of the first images only."""
        return Curation(
            self.images[:images], self.features, self.neighbours[:images], self.mentions,
            self.own, self.gram,
        )  # fmt: skip

    def rank(self) -> Ranked:
        return rank_images(self.images, self.features, self.neighbours, self.mentions, self.own)

    def rank_and_cluster(self) -> npt.NDArray[np.uint8]:
        ranked = keep_best(self.rank(), MAX_CONCEPTS)
        return cluster_concepts(ranked, self.features, clusters="half", gram=self.gram)


def curate_as_released(
    inputs: Curation, pool: FloatArray, images: int, *, cluster: bool
) -> Release:
    """Scores and clusters of the first images, one at a time (the release's formulation)."""
    out = []
    for image in range(images):
        rows = inputs.neighbours[image]
        captions = [inputs.mentions[row].tolist() for row in rows]
        concepts = sorted({concept for caption in captions for concept in caption})
        responses, witnesses, largest = {}, {}, 1e-4
        for concept in concepts:
            text = inputs.features[concept]  # (D,)
            seen = [row for row, caption in zip(rows, captions, strict=True) if concept in caption]
            responses[concept] = float(pool[image] @ text)
            witnesses[concept] = (pool[seen] @ text).tolist()  # (k, D) gathered
            largest = max(largest, responses[concept], *witnesses[concept])
        scores = {
            concept: s / largest
            + s / max((s + sum(witnesses[concept])) / (len(witnesses[concept]) + 1), 1e-4)
            for concept, s in responses.items()
        }
        ordered = dict(sorted(scores.items(), key=lambda entry: (-entry[1], entry[0])))
        labels: list[int] = []
        if cluster and len(ordered) > 2:
            means = KMeans((len(ordered) + 1) // 2, random_state=0, n_init=5, max_iter=100)
            labels = means.fit_predict(inputs.features[list(ordered)]).tolist()
        out.append((ordered, labels))
    return out


def check_same(inputs: Curation, pool: FloatArray, images: int) -> None:
    """Refuse to time what differs."""
    ranked = inputs.first(images).rank()
    for image, (scores, _) in enumerate(curate_as_released(inputs, pool, images, cluster=False)):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        ours = dict(zip(ranked.concepts[part].tolist(), ranked.scores[part].tolist(), strict=True))
        assert ours == pytest.approx(scores, rel=1e-4), f"image {image} is ranked differently"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of two things done in turn, after one of each to warm up."""
    times = [(seconds(first), seconds(second)) for _ in range(REPEATS + 1)][1:]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def measure_rank_cluster() -> dict[str, float]:
    """Rates and ratios of ranking, clustering and sampling."""
    out: dict[str, float] = {}
    inputs = Curation.make(8)
    pool = inputs.images.astype(np.float32)
    check_same(inputs, pool, 200)
    sizes = np.diff(inputs.rank().offsets)
    out["concepts_per_image"] = float(sizes.mean())
    for count, suffix in ((2, ""), (1, "_one_core")):
        with threads(count):
            ours, released = in_turn(
                inputs.rank_and_cluster,
                lambda: curate_as_released(inputs, pool, RELEASE_IMAGES, cluster=True),
            )
        out[f"rank_cluster_pairs_per_s{suffix}"] = IMAGES / ours
        out[f"rank_cluster_ratio_to_release{suffix}"] = IMAGES / ours / (RELEASE_IMAGES / released)
        out["release_pairs_per_s"] = RELEASE_IMAGES / released
    out |= measure_rank(inputs, 8) | measure_rank(Curation.make(64), 64)
    many = Curation.make(8, MANY_CONCEPTS)
    with threads(2):
        times = [seconds(many.rank_and_cluster) for _ in range(REPEATS + 1)][1:]
    out["rank_cluster_pairs_per_s_20k_concepts"] = IMAGES / statistics.median(times)
    return out | measure_draws(inputs)


def measure_rank(inputs: Curation, neighbours: int) -> dict[str, float]:
    """Ranking alone, on one core, beside the release's loop over images."""
    pool = inputs.images.astype(np.float32)
    check_same(inputs, pool, 50)
    images = 8 * RELEASE_IMAGES // neighbours * 8
    with threads(1):
        ours, loop = in_turn(
            inputs.rank, lambda: curate_as_released(inputs, pool, images, cluster=False)
        )
    return {
        f"rank_pairs_per_s_n{neighbours}": IMAGES / ours,
        f"loop_pairs_per_s_n{neighbours}": images / loop,
        f"rank_ratio_to_loop_n{neighbours}": IMAGES / ours / (images / loop),
    }


def measure_draws(inputs: Curation) -> dict[str, float]:
    """Pairs a second that three concepts are drawn for, on two threads."""
    out = {}
    for method in get_args(Method):
        draw = draws_of(inputs, method)
        with threads(2):
            times = [seconds(draw) for _ in range(REPEATS + 1)][1:]
        name = "draws_per_s" if method == "cluster" else f"draws_per_s_{method}"
        out[name] = 20 * IMAGES / statistics.median(times)
    return out


def draws_of(inputs: Curation, method: Method) -> Callable[[], object]:
    """Draw three concepts for each of 400,000 pairs: every image twenty times."""
    ranked = inputs.rank()
    labels = cluster_concepts(ranked, inputs.features, gram=inputs.gram)
    sizes = np.tile(np.diff(ranked.offsets), 20)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    scores, clusters = np.tile(ranked.scores, 20), np.tile(labels, 20)
    hashes = np.random.default_rng(0).integers(0, 2**64, len(sizes), np.uint64)
    return lambda: draw_batch(
        method, offsets, scores, clusters, hashes, count=3, seed=0, epoch=0, temperature=1.0
    )


@pytest.fixture(scope="module", params=[8, 16, 64], ids="R={}".format)
def inputs(request: pytest.FixtureRequest) -> Curation:
    return Curation.make(request.param)


def report_rate(benchmark: Bench, count: int, work: str, way: str = "ours") -> None:
    """Note the rate, and for the table what was done, who did it, and of how many images."""
    benchmark.extra_info["images a second"] = round(count / benchmark.stats.stats.median)
    benchmark.extra_info.update(work=work, way=way, items=count)


def named(inputs: Curation, work: str) -> str:
    return f"{work}, {inputs.neighbours.shape[1]} neighbours"


def test_rank(benchmark: Bench, inputs: Curation) -> None:
    check_same(inputs, inputs.images.astype(np.float32), 50)
    with threads(1):
        benchmark(inputs.rank)
    report_rate(benchmark, IMAGES, named(inputs, "rank"))


def test_rank_as_released(benchmark: Bench, inputs: Curation) -> None:
    pool = inputs.images.astype(np.float32)
    with threads(1):
        benchmark(curate_as_released, inputs, pool, RELEASE_IMAGES, cluster=False)
    report_rate(benchmark, RELEASE_IMAGES, named(inputs, "rank"), "the release's loop")


def test_rank_and_cluster(benchmark: Bench, inputs: Curation) -> None:
    with threads(1):
        benchmark(inputs.rank_and_cluster)
    report_rate(benchmark, IMAGES, named(inputs, "rank and cluster"))


def test_rank_and_cluster_as_released(benchmark: Bench, inputs: Curation) -> None:
    pool = inputs.images.astype(np.float32)
    with threads(1):
        benchmark.pedantic(
            curate_as_released, (inputs, pool, RELEASE_IMAGES), {"cluster": True}, rounds=2
        )
    work = named(inputs, "rank and cluster")
    report_rate(benchmark, RELEASE_IMAGES, work, "the release's loop")


@pytest.mark.parametrize("method", get_args(Method))
def test_draw(benchmark: Bench, method: Method) -> None:
    draw = draws_of(Curation.make(8), method)
    with threads(1):
        benchmark(draw)
    report_rate(benchmark, 20 * IMAGES, f"draw three concepts, {method}")
