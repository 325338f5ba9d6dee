"""Which concepts can be seen at all: "morning" and "friend" name nothing in a picture."""

import numpy as np
import numpy.typing as npt

from conceptarchive.mentions import Mentions
from conceptarchive.responses import own_responses

FloatArray = npt.NDArray[np.float32]

BLOCK = 8192  # images whose responses to all concepts are held at a time


def visualness(
    images: npt.NDArray[np.floating], concept_features: FloatArray, mentions: Mentions
) -> npt.NDArray[np.float64]:
    """How much more images captioned with a concept respond to it than all images do.

        d_q = (mean of s(x, q) where the caption names q - mean of s(x, q)) / deviation of s(x, q)

    Near 0 for a word that captions use whatever the image shows. Not in the papers: CoCu takes a
    list of concepts made by hand; this cuts a mined one down to what the encoder can see.

    Args:
        images: (n, D) unit rows of the pool.
        concept_features: (V, D) unit rows.
        mentions: concepts of the pool's captions.

    Returns:
        (V,) in standard deviations; 0 for a concept that no caption mentions, or whose response is
        the same everywhere.
    """
    concepts = len(concept_features)
    total, squares = np.zeros(concepts), np.zeros(concepts)  # (V,), (V,)
    for start in range(0, len(images), BLOCK):
        rows = np.asarray(images[start : start + BLOCK], np.float32)  # (block, D)
        responses = (rows @ concept_features.T).astype(np.float64)  # (block, V)
        total += responses.sum(axis=0)
        squares += (responses**2).sum(axis=0)
    mean = total / len(images)
    deviation = np.sqrt(np.maximum(squares / len(images) - mean**2, 0))  # (V,)

    own = own_responses(images, concept_features, mentions).astype(np.float64)  # (mentions,)
    counts = np.bincount(mentions.concepts, minlength=concepts)  # (V,)
    sums = np.bincount(mentions.concepts, weights=own, minlength=concepts)  # (V,)
    seen = (counts > 0) & (deviation > 1e-6)
    gain = sums / np.maximum(counts, 1) - mean
    return np.where(seen, gain / np.maximum(deviation, 1e-6), 0.0)
