"""Small made-up data: shards, an encoder without weights, embeddings with words for concepts."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from conceptarchive import Embeddings, Vocabulary
from conceptarchive.archive.schema import (
    INDEX,
    INDEX_SCHEMA,
    KIND,
    POOL_ROWS,
    POOL_SCHEMA,
    SHARD_SCHEMA,
    VERSION,
    VOCABULARY,
    file_metadata,
    fingerprint,
    hash_file,
    lists,
    pool_name,
    shard_name,
    write_arrow,
    write_manifest,
)  # fmt: skip
from conceptarchive.keyhash import hash_keys

MakeTar = Callable[[Path, Sequence[tuple[str, bytes]]], Path]
MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]
MakePairs = Callable[..., tuple[Embeddings, Vocabulary, npt.NDArray[np.float32]]]


MadePair = tuple[str, str, list[tuple[int, float, int]], list[tuple[int, float]]]
MadePoolPair = tuple[str, str, list[tuple[int, float]]]
WriteArchive = Callable[..., Path]


class TinyEncoder:
    """Colours of four quarters for images, a hash for texts; 12 numbers a row."""

    id = "tiny"

    def __init__(self) -> None:
        self.images_seen = 0

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        self.images_seen += len(images)
        small = [np.asarray(image.resize((2, 2)), np.float32).reshape(12) + 1 for image in images]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(small)), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        digests = [hashlib.sha256(text.encode()).digest()[:12] for text in texts]
        rows = torch.tensor([list(digest) for digest in digests], dtype=torch.float32) - 127.5
        return torch.nn.functional.normalize(rows, dim=1)


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def jpeg() -> Callable[[int], bytes]:
    """Bytes of a small picture, different for every seed."""

    def make(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32)).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


@pytest.fixture
def make_tar() -> MakeTar:
    """Write a tar of named files."""

    def make(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def unit_rows() -> MakeRows:
    """Random unit rows (n, D), leaning to one side as CLIP's do."""

    def make(n: int, dim: int, seed: int) -> npt.NDArray[np.float32]:
        rows = np.random.default_rng(seed).standard_normal((n, dim)) + 0.5
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    return make


@pytest.fixture
def make_pairs(unit_rows: MakeRows) -> MakePairs:
    """Random pairs whose captions are words of a random vocabulary; some images are duplicates."""

    def make(
        n: int, concepts: int = 30, dim: int = 16, seed: int = 0, prefix: str = "set/a/"
    ) -> tuple[Embeddings, Vocabulary, npt.NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        image = unit_rows(n, dim, seed)
        image[random.integers(0, n, n // 5)] = image[random.integers(0, n, n // 5)]
        words = [f"w{number}" for number in range(concepts)]
        captions = [" ".join(random.choice(words, random.integers(0, 5))) for _ in range(n)]
        keys = [f"{prefix}{number:04d}" for number in range(n)]
        pairs = Embeddings.from_arrays(keys, captions, image, unit_rows(n, dim, seed + 1))
        return pairs, Vocabulary(tuple(words)), unit_rows(concepts, dim, 99)

    return make


@pytest.fixture
def write_archive() -> WriteArchive:
    """Write an archive from made-up rows, without a build."""
    return write_files


def write_files(
    folder: Path,
    names: Sequence[str],
    pairs: Sequence[MadePair],
    pool: Sequence[MadePoolPair],
    *,
    shard_rows: int = 4,
    merge_plurals: bool = True,
) -> Path:
    """Write an archive.

    Args:
        folder: of the archive.
        names: of concepts.
        pairs: (key, caption, [(concept, score, cluster)], [(pool row, similarity)]).
        pool: (id, caption, [(mention, own response)]).
        shard_rows: pairs of a shard.
        merge_plurals: of the vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary(tuple(names), merge_plurals)
    vocabulary.save(folder / VOCABULARY)
    description = {
        "kind": KIND, "version": VERSION, "config": {"neighbours": 8}, "encoder": "tiny",
        "vocabulary_sha256": vocabulary.sha256, "merge_plurals": merge_plurals,
        "pool_sha256": "0" * 64, "rows": len(pairs), "pool_rows": len(pool),
        "shard_rows": shard_rows,
    }  # fmt: skip
    metadata = file_metadata(description, fingerprint(description))
    for start in range(0, len(pairs), shard_rows):
        columns = shard_columns(pairs[start : start + shard_rows])
        path = folder / shard_name(start // shard_rows)
        write_arrow(path, SHARD_SCHEMA, columns, metadata)
    for start in range(0, len(pool), POOL_ROWS):
        columns = pool_columns(pool[start : start + POOL_ROWS])
        write_arrow(folder / pool_name(start // POOL_ROWS), POOL_SCHEMA, columns, metadata)
    hashes = hash_keys([key for key, *_ in pairs])
    order = np.argsort(hashes, kind="stable").astype(np.uint64)
    write_arrow(folder / INDEX, INDEX_SCHEMA, [pa.array(hashes[order]), pa.array(order)], metadata)
    files = {
        path.name: {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    write_manifest(folder, description, complete=True, files=files, search={"kind": "exact"})
    return folder


def shard_columns(pairs: Sequence[MadePair]) -> list[pa.Array]:
    """Columns of an archive shard."""
    return [
        pa.array([key for key, *_ in pairs], pa.string()),
        pa.array([caption for _, caption, *_ in pairs], pa.string()),
        list_column([[c for c, _, _ in concepts] for _, _, concepts, _ in pairs], np.uint32),
        list_column([[s for _, s, _ in concepts] for _, _, concepts, _ in pairs], np.float32),
        list_column([[g for _, _, g in concepts] for _, _, concepts, _ in pairs], np.uint8),
        list_column([[row for row, _ in near] for *_, near in pairs], np.uint64),
        list_column([[cosine for _, cosine in near] for *_, near in pairs], np.float32),
    ]


def pool_columns(pool: Sequence[MadePoolPair]) -> list[pa.Array]:
    """Columns of a pool shard."""
    return [
        pa.array([key for key, *_ in pool], pa.string()),
        pa.array([caption for _, caption, _ in pool], pa.string()),
        list_column([[c for c, _ in mentions] for *_, mentions in pool], np.uint32),
        list_column([[own for _, own in mentions] for *_, mentions in pool], np.float32),
    ]


def list_column(rows: Sequence[Sequence[float]], dtype: npt.DTypeLike) -> pa.Array:
    """A column of lists."""
    offsets = np.cumsum([0, *map(len, rows)])
    return lists(offsets, np.array([value for row in rows for value in row], dtype))


@pytest.fixture
def made_pairs() -> Callable[..., tuple[list[str], list[MadePair], list[MadePoolPair]]]:
    """Names, pairs and pool of a consistent archive: concepts come from witnesses' captions."""

    def make(
        n: int = 30, concepts: int = 12, seed: int = 0
    ) -> tuple[list[str], list[MadePair], list[MadePoolPair]]:
        random = np.random.default_rng(seed)
        names = [f"w{number}" for number in range(concepts)]
        said = [random.permutation(concepts)[: random.integers(0, 5)].tolist() for _ in range(n)]
        own = [[float(np.float32(random.random())) for _ in mentions] for mentions in said]
        keys = [f"set/a/{number:04d}" for number in range(n)]
        captions = [" ".join(names[c] for c in mentions) for mentions in said]
        pairs = []
        for row in range(n):
            near = [row, *random.permutation(n)[:3].tolist()]
            similarity = sorted(map(float, random.random(len(near)).astype(np.float32)))[::-1]
            found = sorted({c for other in near for c in said[other]})
            scores = sorted(map(float, random.random(len(found)).astype(np.float32)))[::-1]
            ranked = [(c, s, at % 3) for at, (c, s) in enumerate(zip(found, scores, strict=True))]
            pairs.append(
                (keys[row], captions[row], ranked, list(zip(near, similarity, strict=True)))
            )
        pool = [
            (key, caption, list(zip(mentions, responses, strict=True)))
            for key, caption, mentions, responses in zip(keys, captions, said, own, strict=True)
        ]
        return names, pairs, pool

    return make
