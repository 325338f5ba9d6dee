from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.cluster import KMeans

from conceptarchive import Ranked, cluster_concepts
from conceptarchive.cluster import inertia, kmeans

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


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


@pytest.mark.parametrize(("clusters", "most"), [("concepts", 3), ("half", 7)])
def test_inertia_is_no_worse_than_scikit_learn(
    unit_rows: MakeRows, clusters: str, most: int
) -> None:
    features = unit_rows(200, 32, 0)
    sizes = [13] * 25
    ranked = ranked_of(sizes, 200)
    labels = cluster_concepts(ranked, features, clusters=clusters)  # type: ignore[arg-type]  # str
    ours, theirs = [], []
    for image in range(25):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        points = features[ranked.concepts[part]].astype(np.float64)
        assert len(set(labels[part].tolist())) == most
        means = {c: points[labels[part] == c].mean(axis=0) for c in set(labels[part].tolist())}
        ours.append(
            sum(((p - means[c]) ** 2).sum() for p, c in zip(points, labels[part], strict=True))
        )
        theirs.append(KMeans(most, n_init=1, random_state=0).fit(points).inertia_)
    assert np.mean(ours) <= np.mean(theirs) * 1.005
    assert np.max(np.array(ours) / np.array(theirs)) < 1.15


def test_every_concept_is_nearest_to_its_own_mean(unit_rows: MakeRows) -> None:
    features = unit_rows(200, 16, 0)
    ranked = ranked_of([24] * 40, 200)
    labels = cluster_concepts(ranked, features)
    for image in range(40):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        points = features[ranked.concepts[part]].astype(np.float64)  # (24, D)
        means = np.stack([points[labels[part] == c].mean(axis=0) for c in range(3)])  # (3, D)
        distance = ((points[:, None] - means) ** 2).sum(axis=2)  # (24, 3)
        assert np.array_equal(distance.argmin(axis=1), labels[part])


def test_labels_do_not_depend_on_the_images_beside(unit_rows: MakeRows) -> None:
    features = unit_rows(300, 64, 0)
    sizes = np.random.default_rng(1).integers(0, 30, 150).tolist()
    ranked = ranked_of(sizes, 300)
    together = cluster_concepts(ranked, features, clusters="half")
    for image in range(0, 150, 7):
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        alone = Ranked(np.array([0, sizes[image]]), ranked.concepts[part], ranked.scores[part])
        assert np.array_equal(cluster_concepts(alone, features, clusters="half"), together[part])


def test_copies_of_one_concept_leave_clusters_empty() -> None:
    gram = torch.ones(1, 6, 6)
    labels = kmeans(gram, torch.ones(1, 6, dtype=torch.bool), torch.tensor([3]))
    assert labels.tolist() == [[0] * 6]
    assert inertia(gram, labels, torch.ones(1, 6, dtype=torch.bool)).item() == pytest.approx(0)


def test_too_many_concepts_are_refused(unit_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match="got 300"):
        cluster_concepts(ranked_of([300], 300), unit_rows(300, 4, 0))
