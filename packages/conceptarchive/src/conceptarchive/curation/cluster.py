"""k-means over the concepts of an image, on their Gram matrix."""

import numpy as np
import numpy.typing as npt

from conceptarchive.config import MAX_CLUSTERS, Clusters
from conceptarchive.curation.rank import Ranked
from conceptarchive.curation.responses import dot
from conceptarchive.parallel import check_concepts, check_offsets, in_blocks, kernel, kernel_input

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]
Sums = tuple[Float64Array, Float64Array, Float64Array]
"""Of each cluster: its size (k,), <sum, sum> (k,), and <sum, vector> for all vectors (k, m)."""

BLOCK = 2048  # images clustered by one thread at a time
ROUNDS = 50  # passes over an image's concepts at most; a handful suffice
STARTS = 2  # first centres tried for each image
GRAM_BLOCK = 16  # of its rows at a time: 32 KB of features at 512 dimensions
GRAM_CONCEPTS = 6000  # the largest vocabulary whose Gram matrix is kept: 144 MB
LEAST_GAIN = 1e-7  # of inertia: less is rounding


def cluster_concepts(
    ranked: Ranked,
    concept_features: FloatArray,
    *,
    clusters: Clusters = "concepts",
    concepts_per_pair: int = 3,
    gram: FloatArray | None = None,
) -> Labels:
    """Part the concepts of each image by meaning, for cluster-guided sampling.

    CoCu (arXiv:2309.13505, sec. 3.3) clusters each image's candidate concepts by their text
    embeddings. For the m concepts of an image into k = min(L, m) or ceil(m / 2) clusters:

        minimise the sum over concepts of |t(q) - mean of its cluster|^2

    k-means from the best concept, then farthest-first; again from the second-best; the lesser
    inertia is kept. Deterministic, and independent of the images beside it and of how
    many threads share the work.

    Args:
        ranked: concepts of n images, best first.
        concept_features: (V, D) float32 unit rows.
        clusters: `concepts` for k = min(`concepts_per_pair`, m), `half` for ceil(m / 2).
        concepts_per_pair: L.
        gram: (V, V) of `vocabulary_gram`, to cluster twice as fast; the result is the same.

    Returns:
        (c,) cluster numbers, counted from 0 in the order of each cluster's best concept.

    Raises:
        ValueError: an image has more than 255 concepts, or one that the vocabulary has not.
    """
    sizes = np.diff(ranked.offsets)  # (n,)
    check_offsets("offsets", ranked.offsets, len(sizes), len(ranked.concepts))
    if len(sizes) and sizes.max() > MAX_CLUSTERS:
        raise ValueError(f"an image may have {MAX_CLUSTERS} concepts, got {sizes.max()}")
    concepts = kernel_input(ranked.concepts, np.int64)  # (c,)
    check_concepts(concepts, len(concept_features))
    if gram is not None and gram.shape != (len(concept_features), len(concept_features)):
        raise ValueError(f"gram must be of {len(concept_features)} concepts, got {gram.shape}")
    products = kernel_input(np.empty((0, 0)) if gram is None else gram, np.float32)  # (V, V)
    features = kernel_input(concept_features, np.float32)  # (V, D)
    counts = np.minimum(concepts_per_pair, sizes) if clusters == "concepts" else (sizes + 1) // 2
    out = np.zeros(len(concepts), np.uint8)  # (c,)

    def cluster(rows: slice) -> None:
        offsets = ranked.offsets[rows.start : rows.stop + 1]
        _cluster_images(offsets, concepts, features, products, counts[rows], out)

    in_blocks(cluster, len(sizes), BLOCK)
    return out


def vocabulary_gram(concept_features: FloatArray) -> FloatArray | None:
    """Inner products of all concepts, computed once for all images.

    Args:
        concept_features: (V, D) float32 unit rows.

    Returns:
        (V, V) float32, or None for a vocabulary of more than 6,000 concepts.
    """
    if len(concept_features) > GRAM_CONCEPTS:
        return None
    features = kernel_input(concept_features, np.float32)  # (V, D)
    out = np.empty((len(features), len(features)), np.float32)
    in_blocks(lambda rows: _gram_rows(features, rows.start, out[rows]), len(features), GRAM_BLOCK)
    return out


@kernel
def _gram_rows(features: FloatArray, first: int, out: FloatArray) -> None:
    """Inner products of concepts from `first` on with all concepts."""
    for column in range(len(features)):
        for row in range(len(out)):
            out[row, column] = dot(features[first + row], features[column])


@kernel
def _cluster_images(
    offsets: IntArray,
    concepts: IntArray,
    features: FloatArray,
    products: FloatArray,
    counts: IntArray,
    out: Labels,
) -> None:
    """Cluster the concepts of n images into `counts` clusters each."""
    for image in range(len(counts)):
        of_image = slice(offsets[image], offsets[image + 1])
        labels = out[of_image]
        if len(labels) == counts[image]:  # each is a cluster of its own
            labels[:] = np.arange(len(labels))
        else:
            gram = _gram_block(concepts[of_image], features, products)
            kmeans(gram, counts[image], labels)


@kernel
def _gram_block(concepts: IntArray, features: FloatArray, products: FloatArray) -> Float64Array:
    """(m, m) inner products of m concepts, from the vocabulary's where they are known."""
    gram = np.empty((len(concepts), len(concepts)))
    known = len(products) > 0
    for row, left in enumerate(concepts):
        for column, right in enumerate(concepts[: row + 1]):
            product = products[left, right] if known else dot(features[left], features[right])
            gram[row, column] = gram[column, row] = product
    return gram


@kernel
def kmeans(gram: Float64Array, clusters: int, out: Labels) -> float:
    """Cluster m vectors, given only their inner products; return the inertia.

    Args:
        gram: (m, m) inner products.
        clusters: k, 1 <= k <= m.
        out: (m,) receives the cluster of each vector, in order of first appearance.
    """
    labels = np.empty(len(gram), np.uint8)  # (m,)
    least = np.inf
    for first in range(min(STARTS, len(gram))):
        _farthest_first(gram, clusters, first, labels)
        inertia = _settle(gram, clusters, labels)
        if inertia < least - LEAST_GAIN:  # ties stay with the better-ranked start
            least = inertia
            out[:] = labels
    _renumber(out)
    return least


@kernel
def _farthest_first(gram: Float64Array, clusters: int, first: int, labels: Labels) -> None:
    """Label by the nearest of k centres: `first`, then ever the vector farthest from all."""
    labels[:] = 0
    nearest = gram[first].copy()  # (m,) similarity to the nearest centre
    for cluster in range(1, clusters):
        centre = nearest.argmin()
        for at in range(len(gram)):
            if gram[centre, at] > nearest[at]:
                nearest[at] = gram[centre, at]
                labels[at] = cluster


@kernel
def _settle(gram: Float64Array, clusters: int, labels: Labels) -> float:
    """Move vectors one by one to the cluster that lowers inertia most; return the inertia.

    With n vectors in a cluster, |a - mean|^2 = <a, a> - 2 <a, sum> / n + <sum, sum> / n^2, and

        inertia falls by   n / (n - 1) |a - mean|^2   when a leaves a cluster (Hartigan, 1975)
        inertia grows by   n / (n + 1) |a - mean|^2   when a joins another

    Where no move helps, every vector is nearest to its own mean too, as after Lloyd's rounds.
    """
    size, within = np.zeros(clusters), np.zeros(clusters)  # (k,), (k,)
    sums = size, within, np.zeros((clusters, len(gram)))  # (k, m)
    for at in range(len(gram)):
        _add(gram, at, labels[at], sums)
    settled = False
    for _ in range(ROUNDS):
        if settled:
            break
        settled = True
        for at in range(len(gram)):
            own, best = labels[at], labels[at]
            if size[own] == 1:
                continue
            least = _spread(gram, at, own, sums) / (size[own] - 1) - LEAST_GAIN
            for other in range(clusters):
                cost = _spread(gram, at, other, sums) / (size[other] + 1)
                if other != own and cost < least:
                    least, best = cost, other
            if best != own:
                _remove(gram, at, own, sums)
                _add(gram, at, best, sums)
                labels[at] = best
                settled = False
    return float(np.trace(gram) - (within / np.maximum(size, 1)).sum())


@kernel
def _spread(gram: Float64Array, at: int, cluster: int, sums: Sums) -> float:
    """Size n of a cluster times |a - mean|^2; 0 for an empty one."""
    size, within, towards = sums
    n = size[cluster]
    return float(n * gram[at, at] - 2 * towards[cluster, at] + within[cluster] / max(n, 1.0))


@kernel
def _add(gram: Float64Array, at: int, cluster: int, sums: Sums) -> None:
    """Put a vector into a cluster."""
    size, within, towards = sums
    size[cluster] += 1
    within[cluster] += gram[at, at] + 2 * towards[cluster, at]
    for column in range(len(gram)):
        towards[cluster, column] += gram[at, column]


@kernel
def _remove(gram: Float64Array, at: int, cluster: int, sums: Sums) -> None:
    """Take a vector out of a cluster."""
    size, within, towards = sums
    size[cluster] -= 1
    within[cluster] += gram[at, at] - 2 * towards[cluster, at]
    for column in range(len(gram)):
        towards[cluster, column] -= gram[at, column]


@kernel
def _renumber(labels: Labels) -> None:
    """Number clusters in the order of their first vector."""
    numbers = np.full(MAX_CLUSTERS + 1, -1)
    count = 0
    for at in range(len(labels)):
        if numbers[labels[at]] < 0:
            numbers[labels[at]] = count
            count += 1
        labels[at] = numbers[labels[at]]
