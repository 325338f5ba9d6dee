"""k-means over the concepts of an image, on their Gram matrix, for many images at once."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptarchive.config import MAX_CLUSTERS, Clusters
from conceptarchive.rank import Ranked

BLOCK = 128  # images clustered at a time
ROUNDS = 50  # Lloyd rounds at most; a handful suffice
STARTS = 4  # first centres tried for each image
PADDING = 4  # images whose concept counts round up to the same multiple share a block


def cluster_concepts(
    ranked: Ranked,
    concept_features: npt.NDArray[np.float32],
    *,
    clusters: Clusters = "concepts",
    concepts_per_pair: int = 3,
) -> npt.NDArray[np.uint8]:
    """Part the concepts of each image by meaning, for cluster-guided sampling.

    CoCu (arXiv:2309.13505, sec. 3.3) clusters each image's candidate concepts by their text
    embeddings. For the m concepts of an image into k = min(L, m) or ceil(m / 2) clusters:

        minimise the sum over concepts of |t(q) - mean of its cluster|^2

    k-means from the best concept, then farthest-first; again from the next three concepts;
    the least inertia is kept. Deterministic, and independent of the images beside it.

    Args:
        ranked: concepts of n images, best first.
        concept_features: (V, D) float32 unit rows.
        clusters: `concepts` for k = min(`concepts_per_pair`, m), `half` for ceil(m / 2).
        concepts_per_pair: L.

    Returns:
        (c,) cluster numbers, counted from 0 in the order of each cluster's best concept.

    Raises:
        ValueError: an image has more than 255 concepts.
    """
    sizes = np.diff(ranked.offsets)  # (n,)
    if len(sizes) and sizes.max() > MAX_CLUSTERS:
        raise ValueError(f"an image may have {MAX_CLUSTERS} concepts, got {sizes.max()}")
    counts = np.minimum(concepts_per_pair, sizes) if clusters == "concepts" else (sizes + 1) // 2
    out = np.arange(len(ranked.concepts)) - np.repeat(ranked.offsets[:-1], sizes)  # (c,)
    padded = -(-sizes // PADDING) * PADDING  # (n,)
    features = torch.from_numpy(concept_features)  # (V, D)
    for width in np.unique(padded[counts < sizes]):
        rows = np.flatnonzero((padded == width) & (counts < sizes))
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            column = np.arange(width)
            inside = column < sizes[block, None]  # (B, m)
            place = (ranked.offsets[block, None] + column) * inside  # (B, m)
            concepts = torch.from_numpy(ranked.concepts[place])
            gram = _gram(features[concepts])  # (B, m, m)
            labels = kmeans(gram, torch.from_numpy(inside), torch.from_numpy(counts[block]))
            out[place[inside]] = labels.numpy()[inside]
    return out.astype(np.uint8)


def _gram(features: Tensor) -> Tensor:
    """(B, m, m) inner products of (B, m, D) features, in float32."""
    return features @ features.mT


def kmeans(gram: Tensor, inside: Tensor, counts: Tensor) -> Tensor:
    """Cluster B sets of up to m unit vectors, given only their inner products.

    Args:
        gram: (B, m, m) inner products.
        inside: (B, m) bool, which places hold a vector; a set fills its first places.
        counts: (B,) clusters k of each set, 1 <= k <= size of the set.

    Returns:
        (B, m) int64 cluster of each vector, in order of first appearance; 0 outside.
    """
    best, least = _kmeans_from(gram, inside, counts, first=0)  # (B, m), (B,)
    for first in range(1, STARTS):
        labels, cost = _kmeans_from(gram, inside, counts, first=first)
        better = cost < least - 1e-6  # ties stay with the better-ranked start
        best = torch.where(better[:, None], labels, best)
        least = torch.where(better, cost, least)
    return _relabel(best, inside)


def inertia(gram: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    """(B,) sum of squared distances to the cluster means."""
    clusters = int(labels.max()) + 1 if labels.numel() else 1
    member = _member(labels, inside, clusters)  # (B, k, m)
    return _cost(gram, member, inside)


def _kmeans_from(
    gram: Tensor, inside: Tensor, counts: Tensor, *, first: int
) -> tuple[Tensor, Tensor]:
    """Labels (B, m) and inertia (B,) of Lloyd's rounds from the centre `first`."""
    clusters = int(counts.max())
    labels = _farthest_first(gram, inside, counts, first)  # (B, m)
    member = _member(labels, inside, clusters)  # (B, k, m)
    for _ in range(ROUNDS):
        moved = _assign(gram, member).argmin(dim=1)  # (B, m)
        if torch.equal(moved * inside, labels * inside):
            break
        labels = moved
        member = _member(labels, inside, clusters)
    return labels, _cost(gram, member, inside)


def _farthest_first(gram: Tensor, inside: Tensor, counts: Tensor, first: int) -> Tensor:
    """(B, m) nearest of k centres: `first`, then ever the vector farthest from all centres."""
    sizes = inside.sum(dim=1)  # (B,)
    centre = torch.minimum(torch.full_like(sizes, first), sizes - 1)  # (B,)
    nearest = torch.full_like(gram[:, 0], -torch.inf)  # (B, m) similarity to its centre
    labels = torch.zeros_like(inside, dtype=torch.int64)
    for cluster in range(int(counts.max())):
        row = gram[torch.arange(len(gram)), centre]  # (B, m)
        closer = (row > nearest) & (cluster < counts)[:, None]
        nearest = torch.where(closer, row, nearest)
        labels = torch.where(closer, cluster, labels)
        centre = nearest.masked_fill(~inside, torch.inf).argmin(dim=1)
    return labels


def _member(labels: Tensor, inside: Tensor, clusters: int) -> Tensor:
    """(B, k, m) float32, 1 where a vector is in a cluster."""
    own = labels[:, None] == torch.arange(clusters, device=labels.device)[:, None]
    return (own & inside[:, None]).float()


def _assign(gram: Tensor, member: Tensor) -> Tensor:
    """(B, k, m) squared distance to each cluster mean, less the vector's own square.

    |a - mean|^2 = |a|^2 - 2 <a, mean> + |mean|^2; an empty cluster is infinitely far.
    """
    size = member.sum(dim=2, keepdim=True)  # (B, k, 1)
    mean = member / size.clamp(min=1)  # (B, k, m)
    product = mean @ gram  # (B, k, m) inner product of every vector with each mean
    square = (product * mean).sum(dim=2, keepdim=True)  # (B, k, 1)
    return (square - 2 * product).masked_fill(size == 0, torch.inf)


def _cost(gram: Tensor, member: Tensor, inside: Tensor) -> Tensor:
    """(B,) inertia of a membership: squares of all vectors less n |mean|^2 of each cluster."""
    squares = (gram.diagonal(dim1=1, dim2=2) * inside).sum(dim=1)  # (B,)
    size = member.sum(dim=2).clamp(min=1)  # (B, k)
    within = (member @ gram * member).sum(dim=2)  # (B, k)
    return squares - (within / size).sum(dim=1)


def _relabel(labels: Tensor, inside: Tensor) -> Tensor:
    """Number clusters in the order of their first vector."""
    width = labels.shape[1]
    same = (labels[:, :, None] == labels[:, None]) & inside[:, None]  # (B, m, m)
    first = same.float().argmax(dim=2)  # (B, m) first vector of one's own cluster
    is_first = first == torch.arange(width, device=labels.device)
    number = (is_first & inside).cumsum(dim=1) - 1  # (B, m)
    return number.gather(1, first) * inside
