"""autofaiss, then one image after the other: how the released code curates, written from its
description.

    python release_loop.py FOLDER SECONDS

FOLDER holds image.npy, captions.json, names.json and text.npy. Needs autofaiss, which lives with
NumPy 1 only: see run.py for the environment. It builds the index that autofaiss chooses, then
curates images for SECONDS and prints rates as JSON: search, concepts by membership in the joined
string, scores, and k-means of scikit-learn for each image.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # k-means of a few vectors on many threads is slower still

import autofaiss
import numpy as np
from nltk.util import ngrams
from sklearn.cluster import KMeans

Rows = np.ndarray[Any, np.dtype[np.floating[Any]]]

NEIGHBOURS, LONGEST, WARM_UP = 8, 4, 20


def extract(caption: str, vocabulary: set[str]) -> list[str]:
    """Names of the vocabulary among the 1- to 4-grams of a caption, in order."""
    tokens = caption.lower().split()
    grams = [" ".join(gram) for n in range(1, LONGEST + 1) for gram in ngrams(tokens, n)]
    return list(dict.fromkeys(gram for gram in grams if gram in vocabulary))


def curate(
    row: int,
    index: Any,
    images: Rows,
    extracts: list[str],
    number: dict[str, int],
    text: Rows,
) -> int:
    """Scores and clusters of one image."""
    _, found = index.search(images[row : row + 1].astype(np.float32), NEIGHBOURS)
    near = [int(at) for at in found[0] if at >= 0]
    names = {name for at in near for name in extracts[at].split(", ") if name}
    scores, largest, ratio = {}, 0.0, {}
    for name in names:
        feature = text[number[name]]
        own = float(images[row] @ feature)
        others = [float(images[at] @ feature) for at in near if name in extracts[at]]
        largest = max(largest, own, *others)
        scores[name] = own
        ratio[name] = own / max(float(np.mean([own, *others])), 1e-4)
    ranked = sorted(names, key=lambda name: -(scores[name] / largest + ratio[name]))
    if len(ranked) > 2:
        points = text[[number[name] for name in ranked]]
        KMeans(math.ceil(len(ranked) / 2), random_state=0, n_init=5, max_iter=100).fit(points)
    return len(ranked)


def main(folder: Path, seconds: float) -> None:
    """Build the index, curate for a while, print rates."""
    images = np.load(folder / "image.npy")
    text = np.load(folder / "text.npy").astype(np.float32)
    captions = json.loads((folder / "captions.json").read_text())
    names = json.loads((folder / "names.json").read_text())
    start = time.perf_counter()
    index, _ = autofaiss.build_index(
        images.astype(np.float32), save_on_disk=False, max_index_query_time_ms=1,
        max_index_memory_usage="4G", current_memory_available="8G", metric_type="ip", verbose=40,
    )  # fmt: skip
    built = time.perf_counter() - start
    start = time.perf_counter()
    vocabulary = set(names)
    extracts = [", ".join(extract(caption, vocabulary)) for caption in captions]
    extracted = time.perf_counter() - start
    number = {name: at for at, name in enumerate(names)}
    for row in range(WARM_UP):
        curate(row, index, images, extracts, number, text)
    start, done, concepts = time.perf_counter(), 0, 0
    while time.perf_counter() - start < seconds and done < len(images) - WARM_UP:
        concepts += curate(WARM_UP + done, index, images, extracts, number, text)
        done += 1
    taken = time.perf_counter() - start
    print(
        json.dumps(
            {
                "rows": len(images),
                "index_s": built,
                "extract_s": extracted,
                "curated": done,
                "curate_pairs_per_s": done / taken,
                "concepts_per_image": concepts / done,
                "total_s": built + extracted + len(images) * taken / done,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
