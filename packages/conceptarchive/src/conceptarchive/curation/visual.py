"""Which concepts can be seen at all: "morning" and "friend" name nothing in a picture."""

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.mentions import Mentions
from conceptarchive.curation.responses import own_responses
from conceptarchive.features.rows import Rows

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

BLOCK = 8192  # images read at a time
CONCEPT_BLOCK = 4096  # concepts whose deviations are computed at a time


def visualness(images: Rows, concept_features: FloatArray, mentions: Mentions) -> Float64Array:
    """How much more images captioned with a concept respond to it than all images do.

        d_q = (mean of s(x, q) where the caption names q - mean of s(x, q)) / deviation of s(x, q)

    Near 0 for a word that captions use whatever the image shows. Not in the papers: CoCu takes a
    list of concepts made by hand; this cuts a mined one down to what the encoder can see.

    Means and deviations over all images come from the images' mean row m and their (D, D) moments
    M, mean of s = <m, t(q)> and mean of s^2 = t(q)^T M t(q): the cost does not grow with V times n.

    Args:
        images: (n, D) unit rows of the pool, read by slices.
        concept_features: (V, D) unit rows.
        mentions: concepts of the pool's captions.

    Returns:
        (V,) in standard deviations; 0 for a concept that no caption mentions, or whose response is
        the same everywhere.
    """
    concepts = len(concept_features)
    mean, deviation = _response_spread(images, concept_features)  # (V,), (V,)
    own = own_responses(images, concept_features, mentions).astype(np.float64)  # (mentions,)
    counts = np.bincount(mentions.concepts, minlength=concepts)  # (V,)
    sums = np.bincount(mentions.concepts, weights=own, minlength=concepts)  # (V,)
    seen = (counts > 0) & (deviation > 1e-6)
    gain = sums / np.maximum(counts, 1) - mean
    return np.where(seen, gain / np.maximum(deviation, 1e-6), 0.0)


def _response_spread(
    images: Rows, concept_features: FloatArray
) -> tuple[Float64Array, Float64Array]:
    """(V,) mean and (V,) standard deviation of the responses of all images to each concept."""
    dim = concept_features.shape[1]
    total, moments = np.zeros(dim), np.zeros((dim, dim))  # (D,), (D, D)
    for start in range(0, len(images), BLOCK):
        rows = np.asarray(images[start : start + BLOCK], np.float64)  # (block, D)
        total += rows.sum(axis=0)
        moments += rows.T @ rows
    count = max(1, len(images))
    total, moments = total / count, moments / count
    moments -= np.outer(total, total)  # the covariance
    mean = concept_features @ total  # (V,)
    variance = np.empty(len(concept_features))  # (V,)
    for start in range(0, len(variance), CONCEPT_BLOCK):
        part = slice(start, start + CONCEPT_BLOCK)
        features = concept_features[part].astype(np.float64)  # (block, D)
        variance[part] = np.vecdot(features @ moments, features)
    return mean, np.sqrt(np.maximum(variance, 0))
