"""Text-to-vision-guided ranking: which candidate concepts do the images show?

The heart of CoCu (arXiv:2309.13505, sec. 3.3). Captions of reference images bring candidate
concepts; cosines with the concepts' texts then say which of them the anchor image shows more
than the images that are captioned with them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from conceptarchive.config import CosineNorm, Ranking, Relative, Response
from conceptarchive.mentions import Mentions
from conceptarchive.responses import responses

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_MEAN = 1e-4  # eqs. 7 and 8 never divide by less
SOFTMAX_SCALE = 100.0  # CLIP's logit scale


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidate concepts of n images, sorted by (image, concept), with their witnesses.

    Attributes:
        offsets: (n + 1,) candidates of image i are `offsets[i]:offsets[i + 1]`.
        concepts: (c,) concept ids.
        witness_offsets: (c + 1,) witnesses of candidate a are
            `witness_offsets[a]:witness_offsets[a + 1]`; none for a concept that only the anchor's
            own caption brought.
        witness_responses: (w,) each witness's response to the concept.
    """

    offsets: IntArray
    concepts: IntArray
    witness_offsets: IntArray
    witness_responses: FloatArray

    @property
    def images(self) -> IntArray:
        """(c,) image of each candidate."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, slots=True)
class Ranked:
    """Concepts of n images, best first, ties by concept id.

    Attributes:
        offsets: (n + 1,) concepts of image i are `offsets[i]:offsets[i + 1]`.
        concepts: (c,) concept ids.
        scores: (c,) higher is better; not probabilities.
    """

    offsets: IntArray
    concepts: IntArray
    scores: FloatArray = field(repr=False)


def rank_images(  # noqa: PLR0913  (the parts of a pool, then eqs. 6-8's options)
    images: npt.NDArray[np.floating],
    concept_features: FloatArray,
    neighbours: IntArray,
    mentions: Mentions,
    own: FloatArray,
    *,
    forced: Mentions | None = None,
    ranking: Ranking = "relative",
    relative: Relative = "mean_with_anchor",
    cosine_norm: CosineNorm = "max_in_archive",
    response: Response = "cosine",
) -> Ranked:
    """Collect and rank the concepts of every image (vision-driven expansion, then eqs. 6-8).

    Args:
        images: (n, D) unit rows of the anchor images.
        concept_features: (V, D) float32 unit rows.
        neighbours: (n, R) pool rows of the reference images, -1 for none.
        mentions: concepts of the pool's captions.
        own: (mentions,) responses of the pool's images to them, see `own_responses`.
        forced: concepts of the anchors' own captions, which are candidates in any case.
        ranking: eq. 6 alone (`cosine`) or eqs. 6-8 (`relative`).
        relative: see `score`.
        cosine_norm: see `score`.
        response: see `score`.
    """
    found = collect(neighbours, mentions, own, concept_count=len(concept_features), forced=forced)
    anchor = responses(images, concept_features, found.images, found.concepts)  # (c,)
    if ranking == "cosine":
        return order_by_score(found, anchor)
    scores = score(anchor, found, relative=relative, cosine_norm=cosine_norm, response=response)
    return order_by_score(found, scores)


def collect(
    neighbours: IntArray,
    mentions: Mentions,
    own: FloatArray,
    *,
    concept_count: int,
    forced: Mentions | None = None,
) -> Candidates:
    """Unite the concepts of the reference images' captions, remembering who brought them.

        A_i    = union over j in R(i) of C(c_j)
        G_i(q) = {j in R(i) : q in C(c_j)}

    Args:
        neighbours: (n, R) pool rows, -1 for none.
        mentions: concepts of the pool's captions.
        own: (mentions,) responses aligned with them.
        concept_count: size V of the vocabulary.
        forced: concepts to add to each image, without a witness.
    """
    image, reference = np.nonzero(neighbours >= 0)  # (pairs,), (pairs,)
    rows = neighbours[image, reference]
    sizes = np.diff(mentions.offsets)[rows]  # (pairs,) concepts that each reference brings
    entry = _ranges(mentions.offsets[rows], sizes)  # (w,) places in `mentions`
    key = np.repeat(image, sizes) * concept_count + mentions.concepts[entry]  # (w,)
    order = np.argsort(key, kind="stable")
    key = key[order]
    candidate = key[np.concatenate([[True], key[1:] != key[:-1]])] if len(key) else key  # (c,)
    if forced is not None:
        at = np.repeat(np.arange(len(neighbours)), np.diff(forced.offsets))
        candidate = np.union1d(candidate, at * concept_count + forced.concepts)  # (c,)
    ends = np.searchsorted(key, candidate, side="right")  # (c,)
    edges = np.arange(len(neighbours) + 1) * concept_count  # (n + 1,)
    return Candidates(
        np.searchsorted(candidate, edges).astype(np.int64),
        (candidate % concept_count).astype(np.int64),
        np.concatenate([[0], ends]).astype(np.int64),
        own[entry[order]],
    )


def score(
    anchor: FloatArray,
    candidates: Candidates,
    *,
    relative: Relative = "mean_with_anchor",
    cosine_norm: CosineNorm = "max_in_archive",
    response: Response = "cosine",
) -> FloatArray:
    """Score candidate concepts by how well the images show them.

    With s_q the anchor's response to concept q and W_q the responses of its k witnesses:

        relative_q = s_q / mean({s_q} | W_q)        eq. 7: more than the images captioned with q?
        score_q    = s_q / M + relative_q           eq. 8, M = max over all these responses

    The printed form of eqs. 7 and 8 could not be checked; this is the released code's, which
    agrees with the prose. Other readings of eq. 7, all 1 where there is no witness:

        mean_without_anchor   s_q / mean(W_q)
        softmax               (k + 1) exp(100 s_q) / sum of exp(100 s) over {s_q} | W_q
        rank                  2 (witnesses below + half of those equal + 1/2) / (k + 1)

    Departs from eqs. 7 and 8: means and M are clamped at 1e-4. Ratios need responses above 0, which
    the cosines of large CLIPs are (0.1 to 0.35) and those of small ones are not: near 0 a ratio
    says nothing. `shifted` takes (1 + cosine) / 2 for every response.

    Args:
        anchor: (c,) responses s_q of the anchor images.
        candidates: c candidates and their witnesses' responses.
        relative: the reading of eq. 7.
        cosine_norm: `max_in_archive` as above; `none` puts 1 for M.
        response: `cosine` as above, or `shifted`.

    Returns:
        (c,) float32, higher is better; not probabilities.

    Raises:
        ValueError: `anchor` is not of the candidates, or an option is unknown.
    """
    if anchor.shape != candidates.concepts.shape:
        raise ValueError(
            f"anchor must be of {len(candidates.concepts)} candidates, got {anchor.shape}"
        )
    _check_options(relative, cosine_norm, response)
    value = anchor.astype(np.float64)  # (c,)
    if response == "shifted":
        value = (1 + value) / 2
        witnesses = ((1 + candidates.witness_responses) / 2).astype(np.float32)  # (w,)
        candidates = replace(candidates, witness_responses=witnesses)
    ratio = RELATIVE[relative](value, candidates)  # (c,)
    if cosine_norm == "max_in_archive":
        value = value / _largest(value, candidates)[candidates.images]
    return (value + ratio).astype(np.float32)


def _check_options(relative: str, cosine_norm: str, response: str) -> None:
    norms, kinds = ("max_in_archive", "none"), ("cosine", "shifted")
    if relative not in RELATIVE or cosine_norm not in norms or response not in kinds:
        raise ValueError(
            f"unknown option: relative={relative!r}, cosine_norm={cosine_norm!r}, "
            f"response={response!r}"
        )


def order_by_score(candidates: Candidates, scores: FloatArray) -> Ranked:
    """Sort each image's candidates by falling score, ties by concept id."""
    order = np.lexsort((-scores, candidates.images))  # (c,), stable: ids ascend within a tie
    return Ranked(candidates.offsets, candidates.concepts[order], scores[order])


def keep_best(ranked: Ranked, most: int) -> Ranked:
    """Keep at most this many concepts of every image, the best."""
    sizes = np.diff(ranked.offsets).clip(max=most)  # (n,)
    kept = _ranges(ranked.offsets[:-1], sizes)  # (c',)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)  # (n + 1,)
    return Ranked(offsets, ranked.concepts[kept], ranked.scores[kept])


def _mean_with_anchor(response: Float64Array, found: Candidates) -> Float64Array:
    count = np.diff(found.witness_offsets)  # (c,)
    total = response + _segment_sum(found.witness_responses, found.witness_offsets)  # (c,)
    return np.asarray(response / (total / (count + 1)).clip(min=LEAST_MEAN))


def _mean_without_anchor(response: Float64Array, found: Candidates) -> Float64Array:
    count = np.diff(found.witness_offsets)  # (c,)
    total = _segment_sum(found.witness_responses, found.witness_offsets)  # (c,)
    ratio = response / (total / count.clip(min=1)).clip(min=LEAST_MEAN)
    return np.where(count > 0, ratio, 1.0)


def _softmax(response: Float64Array, found: Candidates) -> Float64Array:
    count = np.diff(found.witness_offsets)  # (c,)
    witnesses = found.witness_responses.astype(np.float64)  # (w,)
    peak = np.maximum(response, _segment_max(witnesses, found.witness_offsets))  # (c,)
    share = np.exp(SOFTMAX_SCALE * (response - peak))  # (c,)
    others = np.exp(SOFTMAX_SCALE * (witnesses - np.repeat(peak, count)))  # (w,)
    return np.asarray((count + 1) * share / (share + _segment_sum(others, found.witness_offsets)))


def _rank(response: Float64Array, found: Candidates) -> Float64Array:
    count = np.diff(found.witness_offsets)  # (c,)
    anchor = np.repeat(response, count)  # (w,)
    beaten = (anchor > found.witness_responses) + 0.5 * (anchor == found.witness_responses)
    below = _segment_sum(beaten, found.witness_offsets)  # (c,)
    return np.asarray(2 * (below + 0.5) / (count + 1))


RELATIVE: dict[Relative, Callable[[Float64Array, Candidates], Float64Array]] = {
    "mean_with_anchor": _mean_with_anchor,
    "mean_without_anchor": _mean_without_anchor,
    "softmax": _softmax,
    "rank": _rank,
}
"""The readings of eq. 7."""


def _largest(response: Float64Array, found: Candidates) -> Float64Array:
    """(n,) the largest response of each image, of anchor or witness, clamped at LEAST_MEAN."""
    anchor = _segment_max(response, found.offsets)
    by_image = found.witness_offsets[found.offsets]  # (n + 1,)
    witness = _segment_max(found.witness_responses.astype(np.float64), by_image)
    return np.maximum(np.maximum(anchor, witness), LEAST_MEAN)


def _segment_sum(values: npt.NDArray[np.floating], offsets: IntArray) -> Float64Array:
    """(segments,) sums in float64, one term after the other; 0 for an empty segment."""
    segment = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sums = np.bincount(segment, weights=values, minlength=len(offsets) - 1)
    return sums.astype(np.float64)  # counts of no values come as integers


def _segment_max(values: Float64Array, offsets: IntArray) -> Float64Array:
    """(segments,) maxima; -inf for an empty segment."""
    out = np.full(len(offsets) - 1, -np.inf)
    filled = np.diff(offsets) > 0
    if filled.any():
        out[filled] = np.maximum.reduceat(values, offsets[:-1][filled])
    return out


def _ranges(starts: IntArray, sizes: IntArray) -> IntArray:
    """Join the ranges [start, start + size): (sum of sizes,)."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + sizes, sizes)
