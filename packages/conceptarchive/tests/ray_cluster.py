"""Works alone and on a cluster whose node is killed; prints what happened.

A script of its own, started by test_archive_ray.py: a cluster takes sockets and processes that
tests are kept from.
"""

import io
import json
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from conceptarchive import (
    ArchiveConfig,
    Embeddings,
    EmbedOptions,
    RayEngine,
    Vocabulary,
    build_archive,
    embed,
    embed_on_ray,
)

ROWS, SHARD_ROWS = 3000, 20


def inputs() -> dict[str, Any]:
    """Random pairs."""
    random = np.random.default_rng(0)
    words = tuple(f"w{number}" for number in range(50))
    rows, features = (random.standard_normal((n, 16)) for n in (ROWS, len(words)))
    pairs = Embeddings.from_arrays(
        [f"set/a/{number}" for number in range(ROWS)],
        [" ".join(random.choice(words, 4)) for _ in range(ROWS)],
        rows / np.linalg.norm(rows, axis=1, keepdims=True),
    )
    return {
        "anchors": pairs,
        "pool": pairs,
        "vocabulary": Vocabulary(words),
        "concept_features": features / np.linalg.norm(features, axis=1, keepdims=True),
        "config": ArchiveConfig(response="shifted"),
        "shard_rows": SHARD_ROWS,
    }


class Colour:
    """The mean colour of an image, and the length of a text, as unit rows."""

    id = "colour"

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, 3) rows."""
        rows = [np.asarray(image, np.float32).mean(axis=(0, 1)) + 1 for image in images]
        return normalize(torch.from_numpy(np.stack(rows)), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, 3) rows."""
        return normalize(torch.tensor([[len(text), 1.0, 2.0] for text in texts]), dim=1)


def write_shards(folder: Path) -> list[Path]:
    """Six tars of ten drawn pairs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard in range(6):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(10):
                buffer = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
                for name, data in (("png", buffer.getvalue()), ("txt", b"a" * (number + 1))):
                    info = tarfile.TarInfo(f"{number}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return sorted(folder.iterdir())


def kill_a_node(cluster: Any, node: Any, archive: Path, seen: dict[str, int]) -> None:
    """Kill a node once some shards are there."""
    while not (done := len(list(archive.glob("archive-*.arrow")))):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    seen["shards at the kill"] = done


def main(folder: Path) -> None:
    """Embed and build both ways, and print what happened as JSON."""
    import ray
    from ray.cluster_utils import Cluster

    build_archive(folder / "alone", **inputs())
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    engine = RayEngine(address=cluster.address)
    seen = {"workers": engine.workers}
    thread = threading.Thread(
        target=kill_a_node, args=(cluster, nodes[1], folder / "ray", seen), daemon=True
    )
    thread.start()
    shards = write_shards(folder / "cc")
    embed(shards, Colour(), folder / "embedded-alone")
    embed_on_ray(engine, shards, Colour, folder / "embedded-ray", EmbedOptions())
    build_archive(folder / "ray", engine=engine, **inputs())
    thread.join(timeout=60)
    seen["shards"] = len(list((folder / "ray").glob("archive-*.arrow")))
    print(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
