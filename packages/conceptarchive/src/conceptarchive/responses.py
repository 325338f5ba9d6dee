"""Each pool image's response to the concepts of its own caption."""

import numpy as np
import numpy.typing as npt

from conceptarchive.mentions import Mentions

FloatArray = npt.NDArray[np.float32]

BLOCK = 4096  # image-concept products at a time: two operands of 8 MB at 512 dimensions


def responses(
    images: npt.NDArray[np.floating],
    concept_features: FloatArray,
    rows: npt.NDArray[np.integer],
    concepts: npt.NDArray[np.integer],
) -> FloatArray:
    """Cosine of given images with given concepts: s(x, q) = <v(x), t(q)>.

    A product depends on its two rows only, never on what is computed beside it, so results are
    equal to the last bit for any block size.

    Args:
        images: (n, D) unit rows, float16 or float32.
        concept_features: (V, D) float32 unit rows.
        rows: (k,) rows of `images`.
        concepts: (k,) rows of `concept_features`.

    Returns:
        (k,) float32.
    """
    out = np.empty(len(rows), np.float32)  # (k,)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        left = np.asarray(images[rows[block]], dtype=np.float32)  # (block, D)
        out[block] = np.vecdot(left, concept_features[concepts[block]])  # (block,)
    return out


def own_responses(
    images: npt.NDArray[np.floating], concept_features: FloatArray, mentions: Mentions
) -> FloatArray:
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
        ValueError: `mentions` is not of as many captions as there are images.
    """
    if len(mentions) != len(images):
        raise ValueError(f"mentions must be of {len(images)} captions, got {len(mentions)}")
    rows = np.repeat(np.arange(len(images)), np.diff(mentions.offsets))  # (mentions,)
    return responses(images, concept_features, rows, mentions.concepts)
