"""Text-to-vision-guided ranking: which candidate concepts do the images show?

The heart of CoCu (arXiv:2309.13505, sec. 3.3), and the place to start reading. Captions of
reference images bring candidate concepts (`collect`); cosines with the concepts' texts
(`responses`) then say which of them the anchor image shows more than the images that are
captioned with them (`score`).
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.mentions import Mentions
from conceptarchive.config import CosineNorm, Ranking, Relative, Response
from conceptarchive.curation.collect import Candidates, collect
from conceptarchive.curation.responses import responses
from conceptarchive.parallel import in_blocks, kernel

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BLOCK = 2048  # images ranked by one thread at a time
LEAST_MEAN = 1e-4  # eqs. 7 and 8 never divide by less
SOFTMAX_SCALE = 100.0  # CLIP's logit scale
READINGS: tuple[Relative, ...] = ("mean_with_anchor", "mean_without_anchor", "softmax", "rank")
"""The readings of eq. 7, as `relative_response` numbers them."""


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

    Blocks of images are ranked in threads; the result does not depend on how many.

    Args:
        images: (n, D) unit rows of the anchor images, float16 or float32.
        concept_features: (V, D) float32 unit rows.
        neighbours: (n, R) pool rows of the reference images, -1 for none.
        mentions: concepts of the pool's captions.
        own: (mentions,) responses of the pool's images to them, see `own_responses`.
        forced: concepts of the anchors' own captions, which are candidates in any case.
        ranking: eq. 6 alone (`cosine`) or eqs. 6-8 (`relative`).
        relative: see `score`.
        cosine_norm: see `score`.
        response: see `score`.

    Raises:
        ValueError: rows or concept ids out of range, sizes that do not fit, numbers that are none.
    """
    for name, part in (("neighbours", neighbours), ("forced", forced)):
        if part is not None and len(part) != len(images):
            raise ValueError(f"{name} must be of {len(images)} images, got {len(part)}")
    _check_options(relative, cosine_norm, response)

    def rank(rows: slice) -> Ranked:
        found = collect(
            neighbours[rows],
            mentions,
            own,
            concept_count=len(concept_features),
            forced=None if forced is None else _captions(forced, rows),
        )
        anchor = responses(images[rows], concept_features, found.offsets, found.concepts)  # (c,)
        if ranking == "cosine":
            return order_by_score(found, anchor)
        scores = score(anchor, found, relative=relative, cosine_norm=cosine_norm, response=response)
        return order_by_score(found, scores)

    return _join(in_blocks(rank, len(images), BLOCK))


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
        (c,) float32, computed in float64; higher is better; not probabilities.

    Raises:
        ValueError: `anchor` is not of the candidates, a response is not a finite number, or an
            option is unknown.
    """
    if anchor.shape != candidates.concepts.shape:
        raise ValueError(
            f"anchor must be of {len(candidates.concepts)} candidates, got {anchor.shape}"
        )
    _check_options(relative, cosine_norm, response)
    values = anchor.astype(np.float64)  # (c,)
    witnesses = candidates.witness_responses.astype(np.float64)  # (w,)
    if not (np.isfinite(values).all() and np.isfinite(witnesses).all()):
        raise ValueError("responses must be finite; an embedding or a prompt holds NaN or infinity")
    if response == "shifted":
        values, witnesses = (1 + values) / 2, (1 + witnesses) / 2
    out = np.empty(len(values), np.float32)  # (c,)
    _score_candidates(
        values,
        witnesses,
        candidates.offsets,
        candidates.witness_offsets,
        READINGS.index(relative),
        cosine_norm == "max_in_archive",
        out,
    )
    return out


@kernel
def _score_candidates(
    responses: Float64Array,
    witnesses: Float64Array,
    offsets: IntArray,
    witness_offsets: IntArray,
    reading: int,
    divide: bool,
    out: FloatArray,
) -> None:
    """Eqs. 7 and 8: score_q = s_q / M + relative_q, where M is the image's largest response."""
    for image in range(len(offsets) - 1):
        of_image = slice(offsets[image], offsets[image + 1])
        of_witnesses = slice(witness_offsets[of_image.start], witness_offsets[of_image.stop])
        largest = 1.0
        if divide:
            largest = max(_largest(responses[of_image]), _largest(witnesses[of_witnesses]))
        for q in range(of_image.start, of_image.stop):
            seen_by = witnesses[witness_offsets[q] : witness_offsets[q + 1]]  # W_q
            relative = relative_response(responses[q], seen_by, reading)
            out[q] = responses[q] / largest + relative


@kernel
def relative_response(s: float, witnesses: Float64Array, reading: int) -> float:
    """Eq. 7 under one of READINGS: an anchor's response s beside its k witnesses'."""
    k = len(witnesses)
    if k == 0:
        return 1.0
    if reading == 0:  # mean_with_anchor
        return s / max((s + float(witnesses.sum())) / (k + 1), LEAST_MEAN)
    if reading == 1:  # mean_without_anchor
        return s / max(float(witnesses.sum()) / k, LEAST_MEAN)
    if reading == 2:  # softmax, of numbers up to 0 so that none overflows
        peak = max(s, float(witnesses.max()))
        share = math.exp(SOFTMAX_SCALE * (s - peak))
        others = float(np.exp(SOFTMAX_SCALE * (witnesses - peak)).sum())
        return (k + 1) * share / (share + others)
    below = int((witnesses < s).sum()) + 0.5 * int((witnesses == s).sum())  # rank
    return 2 * (below + 0.5) / (k + 1)


@kernel
def _largest(responses: Float64Array) -> float:
    """The largest response, clamped at LEAST_MEAN."""
    largest = LEAST_MEAN
    for value in responses:
        largest = max(largest, value)
    return largest


def order_by_score(candidates: Candidates, scores: FloatArray) -> Ranked:
    """Sort each image's candidates by falling score, ties by concept id.

    Raises:
        ValueError: `scores` are not of the candidates.
    """
    if scores.shape != candidates.concepts.shape:
        raise ValueError(
            f"scores must be of {len(candidates.concepts)} candidates, got {scores.shape}"
        )
    order = np.empty(len(scores), np.int64)  # (c,)
    _order(scores, candidates.offsets, order)
    return Ranked(candidates.offsets, candidates.concepts[order], scores[order])


@kernel
def _order(scores: FloatArray, offsets: IntArray, order: IntArray) -> None:
    for image in range(len(offsets) - 1):
        start, stop = offsets[image], offsets[image + 1]
        # stable: concept ids ascend within a tie
        order[start:stop] = start + np.argsort(-scores[start:stop], kind="mergesort")


def keep_best(ranked: Ranked, most: int) -> Ranked:
    """Keep at most this many concepts of every image, the best."""
    sizes = np.diff(ranked.offsets)  # (n,)
    if sizes.max(initial=0) <= most:
        return ranked
    place = np.arange(len(ranked.concepts)) - np.repeat(ranked.offsets[:-1], sizes)  # (c,)
    kept = place < most  # (c,)
    offsets = np.concatenate([[0], np.cumsum(sizes.clip(max=most))]).astype(np.int64)  # (n + 1,)
    return Ranked(offsets, ranked.concepts[kept], ranked.scores[kept])


def _check_options(relative: str, cosine_norm: str, response: str) -> None:
    norms, kinds = ("max_in_archive", "none"), ("cosine", "shifted")
    if relative not in READINGS or cosine_norm not in norms or response not in kinds:
        raise ValueError(
            f"unknown option: relative={relative!r}, cosine_norm={cosine_norm!r}, "
            f"response={response!r}"
        )


def _captions(mentions: Mentions, rows: slice) -> Mentions:
    """Concepts of some captions."""
    return Mentions(mentions.offsets[rows.start : rows.stop + 1], mentions.concepts)


def _join(parts: list[Ranked]) -> Ranked:
    """Blocks of images one after the other."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])  # (n,)
    return Ranked(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([part.concepts for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
