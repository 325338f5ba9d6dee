"""How much of what images show and captions leave out an archive finds, against known labels."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from conceptarchive.mentions import Mentions
from conceptarchive.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Semantic gap closed by ranked concepts, averaged over pairs with something missing.

    Attributes:
        recall: for each k, the mean share of missing concepts among the first k.
        precision: for each k, the mean share of the k places that hold a missing concept.
        pairs: pairs whose truth is known.
        pairs_with_missing: pairs whose caption leaves something out; means are over these.
        coverage: `pairs_with_missing / pairs`.
        named: share of all concepts present that captions name.
    """

    recall: dict[int, float]
    precision: dict[int, float]
    pairs: int
    pairs_with_missing: int
    coverage: float
    named: float


def archive_quality(
    ranked: Mapping[str, Sequence[str]],
    mentioned: Mapping[str, AbstractSet[str]],
    truth: Mapping[str, AbstractSet[str]],
    ks: Sequence[int] = (1, 3, 5, 10),
) -> QualityReport:
    """Judge ranked concepts by the concepts that an image shows and its caption does not name.

        missing = truth - mentioned;   the list is ranked concepts less those mentioned
        recall@k    = |first k of the list & missing| / |missing|
        precision@k = |first k of the list & missing| / k

    Args:
        ranked: concepts of each pair, best first; a pair without an entry has none.
        mentioned: concepts that each pair's caption names; without an entry, none.
        truth: concepts that each image shows; only these pairs are judged.
        ks: places to look at, each >= 1.

    Raises:
        ValueError: `truth` is empty or a k is below 1.
    """
    if not truth or min(ks, default=0) < 1:
        raise ValueError(f"needs pairs and ks >= 1, got {len(truth)} pairs and ks={tuple(ks)}")
    hits: list[list[int]] = []
    missing_counts: list[int] = []
    present = named = 0
    for key in sorted(truth):
        known = mentioned.get(key, frozenset())
        missing = truth[key] - known
        present += len(truth[key])
        named += len(truth[key] & known)
        if missing:
            new = [name for name in ranked.get(key, ()) if name not in known]
            hits.append([len(missing & set(new[:k])) for k in ks])
            missing_counts.append(len(missing))
    found = np.array(hits, dtype=np.float64).reshape(-1, len(ks))  # (pairs with missing, ks)
    recall = found / np.array(missing_counts, dtype=np.float64).reshape(-1, 1)
    return QualityReport(
        _means(recall, ks),
        _means(found / np.array(ks), ks),
        pairs=len(truth),
        pairs_with_missing=len(hits),
        coverage=len(hits) / len(truth),
        named=named / present if present else 0.0,
    )


def frequency_ranking(mentions: Mentions, vocabulary: Vocabulary) -> list[str]:
    """Concepts by how many captions of the pool mention them: the ranking to beat.

    Ties by concept id. The same list serves every image.
    """
    counts = mentions.counts(len(vocabulary))  # (V,)
    return [vocabulary.names[concept] for concept in np.argsort(-counts, kind="stable")]


def _means(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], ks: Sequence[int]
) -> dict[int, float]:
    """Mean of each column, 0 when there is no row."""
    mean = values.mean(axis=0) if len(values) else np.zeros(len(ks))
    return {k: float(value) for k, value in zip(ks, mean, strict=True)}
