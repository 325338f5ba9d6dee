"""How strongly images respond to concepts, and each pool image to its own caption's concepts."""

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.mentions import Mentions
from conceptarchive.features.rows import Rows
from conceptarchive.parallel import (
    check_concepts,
    check_offsets,
    in_blocks,
    kernel,
    kernel_input,
    product_kernel,
)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BLOCK = 4096  # images at a time: 8 MB in float32 at 512 dimensions


def responses(
    images: npt.NDArray[np.floating],
    concept_features: FloatArray,
    offsets: IntArray,
    concepts: npt.NDArray[np.integer],
) -> FloatArray:
    """Cosine of each image with concepts of its own (eq. 6): s(x, q) = <v(x), t(q)>.

    A product depends on its two rows only, never on what is computed beside it, so results are
    equal to the last bit for any block size and any number of threads.

    Args:
        images: (n, D) unit rows, float16 or float32.
        concept_features: (V, D) float32 unit rows.
        offsets: (n + 1,) concepts of image i are `concepts[offsets[i]:offsets[i + 1]]`.
        concepts: (c,) rows of `concept_features`.

    Returns:
        (c,) float32, for the concepts from the first to the last offset.

    Raises:
        ValueError: sizes do not fit, a concept is not of the vocabulary, or a response is NaN or
            infinite.
    """
    if images.shape[1] != concept_features.shape[1]:
        raise ValueError(f"images must be {concept_features.shape[1]} wide, got {images.shape[1]}")
    ends = kernel_input(offsets - offsets[0], np.int64)  # (n + 1,)
    wanted = kernel_input(concepts[offsets[0] : offsets[-1]], np.int64)  # (c,)
    check_offsets("offsets", ends, len(images), len(wanted))
    check_concepts(wanted, len(concept_features))
    out = np.empty(len(wanted), np.float32)  # (c,)
    features = kernel_input(concept_features, np.float32)
    _respond(kernel_input(images, np.float32), features, ends, wanted, out)
    wrong = np.flatnonzero(~np.isfinite(out))
    if len(wrong):
        row = int(np.searchsorted(ends, wrong[0], side="right")) - 1
        raise ValueError(
            f"image {row} of {len(images)} responds with {out[wrong[0]]} to concept "
            f"{wanted[wrong[0]]}: one of their rows holds NaN or infinity"
        )
    return out


def own_responses(images: Rows, concept_features: FloatArray, mentions: Mentions) -> FloatArray:
    """Response of every pool image to each concept of its own caption.

    All that eq. 7 of CoCu (arXiv:2309.13505, sec. 3.3) needs of a reference image is its response
    to concepts that its caption mentions; computed once here, no neighbour's embedding is ever
    gathered again. Exact.

    Args:
        images: (n, D) unit rows of the pool.
        concept_features: (V, D) float32 unit rows.
        mentions: concepts of the pool's captions.

    Returns:
        (mentions,) float32, aligned with `mentions.concepts`.

    Raises:
        ValueError: `mentions` is not of as many captions as there are images; see `responses`.
    """
    if len(mentions) != len(images):
        raise ValueError(f"mentions must be of {len(images)} captions, got {len(mentions)}")

    def respond(rows: slice) -> FloatArray:
        offsets = mentions.offsets[rows.start : rows.stop + 1]  # (block + 1,)
        return responses(images[rows], concept_features, offsets, mentions.concepts)

    return np.concatenate(in_blocks(respond, len(images), BLOCK))


@kernel
def _respond(
    images: FloatArray,
    concept_features: FloatArray,
    offsets: IntArray,
    concepts: IntArray,
    out: FloatArray,
) -> None:
    for image in range(len(images)):
        for at in range(offsets[image], offsets[image + 1]):
            out[at] = dot(images[image], concept_features[concepts[at]])


@product_kernel
def dot(left: FloatArray, right: FloatArray) -> np.float32:
    """Inner product in float32, summed in an order that hangs on the length alone."""
    total = np.float32(0)
    for at in range(len(left)):
        total += left[at] * right[at]
    return total
