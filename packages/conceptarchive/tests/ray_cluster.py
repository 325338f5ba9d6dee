"""Builds one archive alone and one on a cluster whose node is killed; prints what happened.

A script of its own, started by test_archive_ray.py: a cluster takes sockets and processes that
tests are kept from.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from conceptarchive import Embeddings, Vocabulary, build_archive
from conceptarchive.building.ray_engine import RayEngine
from conceptarchive.config import ArchiveConfig

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


def kill_a_node(cluster: Any, node: Any, archive: Path, seen: dict[str, int]) -> None:
    """Kill a node once some shards are there."""
    while not (done := len(list(archive.glob("archive-*.arrow")))):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    seen["shards at the kill"] = done


def main(folder: Path) -> None:
    """Build both, and print what happened as JSON."""
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
    build_archive(folder / "ray", engine=engine, **inputs())
    thread.join(timeout=60)
    seen["shards"] = len(list((folder / "ray").glob("archive-*.arrow")))
    print(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
