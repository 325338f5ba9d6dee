"""Builds archives of growing size from made-up embeddings, and times every stage.

    python growth.py make FOLDER ROWS     write ROWS pairs of embeddings, 512-d, and a vocabulary
    python growth.py build FOLDER         build their archive and print seconds a stage as JSON

Reference images are made up too (written before their stage, which then finds them done): the
search has benchmarks of its own, and every other stage is to grow linearly.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from conceptarchive import ConceptArchive, ConceptSampler, Embeddings, Vocabulary, build_archive
from conceptarchive.building.engine import LocalEngine, Stage
from conceptarchive.building.expand import save_neighbours
from conceptarchive.building.job import Job
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.features.embeddings import write_partition
from conceptarchive.search.neighbours import Neighbours

DIM, CONCEPTS, NEIGHBOURS, PARTITION = 512, 3805, 8, 100_000
FILLERS = ("a", "the", "on", "with", "near", "photo", "of", "and", "in", "some")


def make(folder: Path, rows: int) -> None:
    """Write embeddings in partitions of 100,000 rows."""
    names = np.array([f"noun{number:04d}" for number in range(CONCEPTS)])
    for number, start in enumerate(range(0, rows, PARTITION)):
        random = np.random.default_rng(number)
        count = min(PARTITION, rows - start)
        image = random.standard_normal((count, DIM), np.float32)
        image += 0.7  # CLIP's rows lean to one side: cosines are well above 0
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        picked = (CONCEPTS * random.random((count, 3)) ** 3).astype(np.int64)  # some more often
        kept = random.integers(1, 4, count)
        captions = [
            " ".join(f"{FILLERS[(n + i) % 10]} the {names[c]}" for i, c in enumerate(row[:k]))
            for n, (row, k) in enumerate(zip(picked, kept, strict=True))
        ]
        ids = [f"made/{number:05d}/{n:08d}" for n in range(count)]
        columns = {"image_path": ids, "caption": captions, "id": ids}
        write_partition(folder / "emb", f"{number:05d}", columns, {"img_emb": image}, {})
    random = np.random.default_rng(1)
    features = random.standard_normal((CONCEPTS, DIM), np.float32) + 0.7
    np.save(folder / "features.npy", features / np.linalg.norm(features, axis=1, keepdims=True))
    Vocabulary(tuple(names)).save(folder / "vocabulary.txt")


def write_plain(folder: Path) -> None:
    """The same as plain arrays and lists, for release_loop.py."""
    pairs = Embeddings.open(folder / "emb")
    np.save(folder / "image.npy", pairs.image[0 : len(pairs)])
    np.save(folder / "text.npy", np.load(folder / "features.npy"))
    names = Vocabulary.from_file(folder / "vocabulary.txt").names
    for name, values in {"captions": list(pairs.captions), "names": names}.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


class TimedEngine:
    """The local engine, with a clock; it makes up the reference images, if asked to."""

    workers = 1

    def __init__(self, *, makes_up: bool) -> None:
        self.makes_up = makes_up
        self.lock = LocalEngine().lock
        self.seconds: dict[str, float] = {}

    def run(self, stage: Stage, job: Job) -> None:
        """Run a stage, and note how long it took."""
        if stage.name == "neighbours" and self.makes_up:
            make_up_neighbours(job)
        start = time.perf_counter()
        LocalEngine().run(stage, job)
        self.seconds[stage.name] = time.perf_counter() - start


def make_up_neighbours(job: Job) -> None:
    """Random reference images, the anchor first."""
    for shard in job.shards:
        rows = job.shard_slice(shard)
        own = np.arange(rows.start, rows.stop)[:, None]
        others = np.random.default_rng(shard).integers(0, len(job.pool), (len(own), NEIGHBOURS - 1))
        indices = np.concatenate([own, others], axis=1)
        similarity = np.linspace(1, 0.8, NEIGHBOURS, dtype=np.float32)
        save_neighbours(job, shard, Neighbours(indices, np.tile(similarity, (len(own), 1))))


def build(folder: Path) -> dict[str, float]:
    """Build the archive, read from it, and give seconds by stage and the peak of memory."""
    result = build_whole(folder, makes_up=True)
    archive = ConceptArchive.open(folder / "archive")
    result |= batch_ms(archive)
    return result | {"peak_rss_gib": peak_gib()}


def peak_gib() -> float:
    """Peak of this process's resident memory, mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def build_whole(folder: Path, *, makes_up: bool = False) -> dict[str, float]:
    """Build the archive, and give seconds by stage."""
    engine = TimedEngine(makes_up=makes_up)
    start = time.perf_counter()
    pairs = Embeddings.open(folder / "emb")
    build_archive(
        folder / "archive",
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary.from_file(folder / "vocabulary.txt"),
        concept_features=np.load(folder / "features.npy"),
        config=ArchiveConfig(neighbours=NEIGHBOURS),
        search=SearchConfig(method="exact"),
        engine=engine,
    )
    return {"rows": float(len(pairs)), "total": time.perf_counter() - start} | engine.seconds


def batch_ms(archive: ConceptArchive) -> dict[str, float]:
    """Median times to read the concepts of 1,024 random pairs, and to draw three of each."""
    sampler = ConceptSampler(archive.folder)
    random = np.random.default_rng(0)
    read, drawn = [], []
    for epoch in range(22):
        first, second = (
            [archive.keys[int(at)] for at in random.integers(0, len(archive), 1024)]
            for _ in range(2)  # keys that were just read would be drawn faster
        )
        start = time.perf_counter()
        archive.batch(first)
        middle = time.perf_counter()
        sampler.sample_batch(second, count=3, seed=0, epoch=epoch)
        read.append(middle - start)
        drawn.append(time.perf_counter() - middle)
    return {
        "read_1024_ms": 1000 * float(np.median(read[2:])),
        "draw_1024_ms": 1000 * float(np.median(drawn[2:])),
    }


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(build(Path(sys.argv[2]))))
