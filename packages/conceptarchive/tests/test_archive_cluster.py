import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans

from conceptarchive import Ranked, cluster_concepts
from conceptarchive.config import Clusters
from conceptarchive.curation.cluster import kmeans, vocabulary_gram

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]
Float64Array = npt.NDArray[np.float64]


def ranked_of(sizes: list[int], concepts: int, seed: int = 0) -> Ranked:
    random = np.random.default_rng(seed)
    ids = [random.choice(concepts, size, replace=False) for size in sizes]
    flat = np.concatenate(ids).astype(np.int64) if ids else np.empty(0, np.int64)
    return Ranked(np.cumsum([0, *sizes]), flat, np.zeros(len(flat), np.float32))


def test_three_bundles_are_three_clusters() -> None:
    bundles = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 1, 2, 0]]
    noisy = bundles + 0.05 * np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    features = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    ranked = Ranked(np.array([0, 7]), np.arange(7), np.zeros(7, np.float32))
    labels = cluster_concepts(ranked, features)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 0, 2, 1, 2, 0]  # numbered by each one's best concept


def test_few_concepts_are_not_clustered(unit_rows: MakeRows) -> None:
    features = unit_rows(10, 8, 0)
    ranked = ranked_of([0, 1, 2, 3, 0], 10)
    assert cluster_concepts(ranked, features).tolist() == [0, 0, 1, 0, 1, 2]
    assert cluster_concepts(ranked, features, clusters="half").max() == 1
    assert len(cluster_concepts(ranked_of([], 10), features)) == 0


def inertia(points: Float64Array, labels: npt.NDArray[np.uint8]) -> float:
    """Sum of squared distances to the cluster means."""
    parts = [points[labels == label] for label in np.unique(labels)]
    return float(sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts))


@pytest.mark.parametrize(("clusters", "most"), [("concepts", 3), ("half", 7)])
@pytest.mark.parametrize("dim", [8, 64, 512])
def test_inertia_is_no_worse_than_scikit_learn_with_five_starts(
    unit_rows: MakeRows, dim: int, clusters: Clusters, most: int
) -> None:
    features = unit_rows(200, dim, 0)
    ranked = ranked_of([13] * 25, 200)
    labels = cluster_concepts(ranked, features, clusters=clusters)
    ours, theirs = [], []
    for image in range(25):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        points = features[ranked.concepts[part]].astype(np.float64)
        assert len(set(labels[part].tolist())) == most
        ours.append(inertia(points, labels[part]))
        theirs.append(KMeans(most, n_init=5, random_state=0).fit(points).inertia_)
    assert np.mean(ours) <= np.mean(theirs)
    assert np.max(np.array(ours) / np.array(theirs)) < 1.1


def test_near_the_best_of_all_partitions(unit_rows: MakeRows) -> None:
    partitions = np.array(list(itertools.product(range(3), repeat=7)), np.uint8)
    partitions = partitions[[len(set(row.tolist())) == 3 for row in partitions]]
    member = partitions[:, None] == np.arange(3)[:, None]  # (partitions, 3, 7)
    excess = []
    for seed in range(40):
        points = unit_rows(7, 6, seed).astype(np.float64)
        sums = member.astype(np.float64) @ points  # (partitions, 3, D)
        within = ((sums**2).sum(axis=2) / member.sum(axis=2)).sum(axis=1)  # (partitions,)
        best = (points**2).sum() - within.max()
        labels = np.empty(7, np.uint8)
        found = kmeans(points @ points.T, 3, labels)
        assert found == pytest.approx(inertia(points, labels))
        assert found >= best - 1e-9
        excess.append(found / best - 1)
    assert np.mean(excess) < 0.02
    assert np.median(excess) < 1e-9


def test_no_single_move_helps_and_every_concept_is_nearest_to_its_own_mean(
    unit_rows: MakeRows,
) -> None:
    features = unit_rows(200, 16, 0)
    ranked = ranked_of([24] * 40, 200)
    labels = cluster_concepts(ranked, features)
    for image in range(40):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        points, own = features[ranked.concepts[part]].astype(np.float64), labels[part]  # (24, D)
        means = np.stack([points[own == c].mean(axis=0) for c in range(3)])  # (3, D)
        distance = ((points[:, None] - means) ** 2).sum(axis=2)  # (24, 3)
        assert np.array_equal(distance.argmin(axis=1), own)
        least = inertia(points, own)
        for place, cluster in itertools.product(range(24), range(3)):
            moved = own.copy()
            moved[place] = cluster
            assert inertia(points, moved) >= least - 1e-6


def test_the_gram_matrix_of_the_vocabulary_changes_nothing(
    unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = unit_rows(150, 512, 0)
    gram = vocabulary_gram(features)
    assert gram is not None
    np.testing.assert_allclose(gram, features @ features.T, atol=1e-6)
    assert np.array_equal(gram, gram.T)
    ranked = ranked_of([14] * 60, 150)
    with_gram = cluster_concepts(ranked, features, clusters="half", gram=gram)
    assert np.array_equal(with_gram, cluster_concepts(ranked, features, clusters="half"))
    # and it is what was read: another one gives other clusters
    other = vocabulary_gram(features[::-1].copy())
    assert not np.array_equal(
        cluster_concepts(ranked, features, clusters="half", gram=other), with_gram
    )
    with pytest.raises(ValueError, match=r"of 150 concepts, got \(3, 3\)"):
        cluster_concepts(ranked, features, gram=gram[:3, :3])
    monkeypatch.setattr("conceptarchive.curation.cluster.GRAM_CONCEPTS", 149)
    assert vocabulary_gram(features) is None


def test_labels_do_not_depend_on_the_images_beside(unit_rows: MakeRows) -> None:
    features = unit_rows(300, 64, 0)
    sizes = np.random.default_rng(1).integers(0, 30, 150).tolist()
    ranked = ranked_of(sizes, 300)
    together = cluster_concepts(ranked, features, clusters="half")
    for image in range(0, 150, 7):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        alone = Ranked(np.array([0, sizes[image]]), ranked.concepts[part], ranked.scores[part])
        assert np.array_equal(cluster_concepts(alone, features, clusters="half"), together[part])


def test_results_do_not_depend_on_blocks_or_threads(
    unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = unit_rows(300, 64, 0)
    ranked = ranked_of(np.random.default_rng(1).integers(0, 30, 150).tolist(), 300)
    whole = cluster_concepts(ranked, features)
    for threads, block in ((1, 7), (2, 50), (3, 1)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        monkeypatch.setattr("conceptarchive.curation.cluster.BLOCK", block)
        assert np.array_equal(cluster_concepts(ranked, features), whole)


def test_copies_of_one_concept_leave_clusters_empty() -> None:
    labels = np.full(6, 9, np.uint8)
    assert kmeans(np.ones((6, 6)), 3, labels) == pytest.approx(0)
    assert labels.tolist() == [0] * 6
    features = np.ones((6, 1), np.float32)
    ranked = Ranked(np.array([0, 6]), np.arange(6), np.zeros(6, np.float32))
    assert cluster_concepts(ranked, features).tolist() == [0] * 6


def test_as_many_concepts_as_cluster_numbers_allow(unit_rows: MakeRows) -> None:
    features = unit_rows(300, 8, 0)
    labels = cluster_concepts(ranked_of([255], 300), features, clusters="half")
    assert np.array_equal(np.unique(labels), np.arange(128))
    alone = cluster_concepts(ranked_of([255], 300), features, concepts_per_pair=255)
    assert np.array_equal(alone, np.arange(255))


def test_what_is_out_of_range_is_refused(unit_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match="got 300"):
        cluster_concepts(ranked_of([300], 300), unit_rows(300, 4, 0))
    with pytest.raises(ValueError, match=r"in \[0, 5\)"):
        cluster_concepts(ranked_of([4], 300), unit_rows(5, 4, 0))
    broken = Ranked(np.array([0, 9]), np.arange(4), np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="from 0 to 4"):
        cluster_concepts(broken, unit_rows(5, 4, 0))
