"""Vision-driven expansion: which concepts the captions of reference images bring."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.mentions import Mentions
from conceptarchive.parallel import check_offsets, kernel, kernel_input

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

FINE = -1  # no image is at fault


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

    Raises:
        ValueError: offsets that are not of these concepts and responses.
    """

    offsets: IntArray
    concepts: IntArray
    witness_offsets: IntArray
    witness_responses: FloatArray

    def __post_init__(self) -> None:
        concepts, witnesses = len(self.concepts), len(self.witness_responses)
        check_offsets("offsets", self.offsets, len(self.offsets) - 1, concepts)
        check_offsets("witness_offsets", self.witness_offsets, concepts, witnesses)


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
        mentions: concepts of the pool's captions; may be memory maps.
        own: (mentions,) responses aligned with them; may be a memory map.
        concept_count: size V of the vocabulary.
        forced: concepts to add to each image, without a witness.

    Raises:
        ValueError: `neighbours` are not rows of the pool, concept ids not of the vocabulary, or
            sizes do not fit.
    """
    if own.shape != mentions.concepts.shape:
        raise ValueError(f"own must be of {len(mentions.concepts)} mentions, got {own.shape}")
    if forced is None:
        forced = Mentions(np.zeros(len(neighbours) + 1, np.int64), np.empty(0, np.uint32))
    if len(forced) != len(neighbours):
        raise ValueError(f"forced must be of {len(neighbours)} images, got {len(forced)}")
    rows = kernel_input(neighbours, np.int64)  # (n, R)
    pool = _inputs(mentions)
    added = _inputs(forced)
    ends = np.zeros(len(rows) + 1, np.int64)  # (n + 1,) where each image's entries end
    bad = _count(rows, pool, added, ends)
    if bad != FINE:
        raise ValueError(
            f"reference images of image {bad} must be among {len(mentions)} captions of "
            f"{len(mentions.concepts)} mentions, got rows {rows[bad].tolist()}"
        )
    total = int(ends[-1])  # as many candidates and witnesses at most
    found = (
        np.zeros(len(rows) + 1, np.int64),  # (n + 1,) where each image's candidates end
        np.empty(total, np.int64),
        np.zeros(total + 1, np.int64),
        np.empty(total, np.float32),
    )
    bad = _collect(rows, pool, added, kernel_input(own, np.float32), ends, concept_count, found)
    if bad != FINE:
        raise ValueError(f"concept ids of image {bad} must be below {concept_count}")
    offsets, concepts, witness_offsets, witness_responses = found
    count = int(offsets[-1])
    witnesses = int(witness_offsets[count])
    return Candidates(
        offsets, concepts[:count], witness_offsets[: count + 1], witness_responses[:witnesses]
    )


def _inputs(mentions: Mentions) -> tuple[IntArray, npt.NDArray[np.uint32]]:
    return kernel_input(mentions.offsets, np.int64), kernel_input(mentions.concepts, np.uint32)


@kernel
def _count(
    neighbours: IntArray,
    pool: tuple[IntArray, npt.NDArray[np.uint32]],
    forced: tuple[IntArray, npt.NDArray[np.uint32]],
    ends: IntArray,
) -> int:
    """Count what is brought to each image; return the first image out of range, or FINE."""
    offsets, concepts = pool
    for image in range(len(neighbours)):
        start, stop = forced[0][image], forced[0][image + 1]
        if not 0 <= start <= stop <= len(forced[1]):
            return image
        ends[image + 1] = ends[image] + stop - start
        for row in neighbours[image]:
            if row >= len(offsets) - 1:
                return image
            if row >= 0:
                start, stop = offsets[row], offsets[row + 1]
                if not 0 <= start <= stop <= len(concepts):
                    return image
                ends[image + 1] += stop - start
    return FINE


@kernel
def _collect(
    neighbours: IntArray,
    pool: tuple[IntArray, npt.NDArray[np.uint32]],
    forced: tuple[IntArray, npt.NDArray[np.uint32]],
    own: FloatArray,
    ends: IntArray,
    concept_count: int,
    found: tuple[IntArray, IntArray, IntArray, FloatArray],
) -> int:
    """Fill `found` with Candidates' columns; return the first image with an unknown concept."""
    offsets, candidates, witness_offsets, witness_responses = found
    candidate = witness = 0
    for image in range(len(neighbours)):
        concepts = np.empty(ends[image + 1] - ends[image], np.int64)  # (entries,)
        responses = np.empty(len(concepts), np.float32)
        size = 0
        for row in neighbours[image]:
            if row >= 0:
                for entry in range(pool[0][row], pool[0][row + 1]):
                    concepts[size], responses[size] = pool[1][entry], own[entry]
                    size += 1
        concepts[size:] = forced[1][forced[0][image] : forced[0][image + 1]]
        last = -1
        for at in np.argsort(concepts, kind="mergesort"):  # stable: witnesses stay nearest first
            if concepts[at] >= concept_count:
                return image
            if concepts[at] != last:
                last = concepts[at]
                candidates[candidate] = last
                candidate += 1
            if at < size:  # brought by a reference image
                witness_responses[witness] = responses[at]
                witness += 1
            witness_offsets[candidate] = witness
        offsets[image + 1] = candidate
    return FINE
